"""The page "Queue health": what is wrong, since when, and what an operator can do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from typing import Any

from django.contrib.admin import AdminSite
from django.db.models import Case, Count, Q, When, Window
from django.db.models.functions import RowNumber
from django.http import HttpRequest, HttpResponse
from django.utils.functional import Promise
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from bgtask import health
from bgtask.health import Health, History, Level, QueueHealth, Workers
from bgtask.models import Worker
from bgtask.status import WorkerState
from bgtask_admin.overview.tables import QueueTable
from bgtask_admin.permissions import MONITOR, PAUSE, VIEW
from bgtask_admin.templatetags.bgtask_admin import per_minute
from bgtask_admin.ui.charts import Band, Chart, sparkline
from bgtask_admin.ui.formatting import duration, visible, whole_duration
from bgtask_admin.ui.pages import admin_url, page, permission_required

SPANS = {"1h": 1, "24h": 24, "7d": 168}  # Hours.
SPAN_LABELS = {"1h": gettext_lazy("1 h"), "24h": gettext_lazy("24 h"), "7d": gettext_lazy("7 d")}
LEVELS = {
    Level.PASS: gettext_lazy("OK"),
    Level.WARN: gettext_lazy("WARNING"),
    Level.FAIL: gettext_lazy("CRITICAL"),
}
REFRESH_SECONDS = (5, 15, 60)
MOST_WORKERS = 200
MOST_QUEUES = 20  # The page "All queues" shows the others.
SAID = 3  # Number of reasons in the sentence of the verdict.
MOST_REASONS = 20  # Number of further reasons in the list below the sentence.
MOST_HOLDS = 100
MOST_RUNNING = 5  # Number of running tasks to show for each worker.


@permission_required(any_of=(VIEW, MONITOR))
def overview(request: HttpRequest, site: AdminSite) -> HttpResponse:
    span = request.GET.get("span", "")
    span = span if span in SPANS else "1h"
    now = health.check()
    shown = health.worst_first(now.queues, MOST_QUEUES)
    if len(now.queues) <= MOST_QUEUES:
        shown.sort(key=attrgetter("name"))
    past = health.read_history(
        SPANS[span], now=now.generated_at, series_of=[queue.name for queue in shown]
    )
    may_view = request.user.has_perm(VIEW)
    return page(
        request,
        site,
        "overview/index.html",
        title=_("Queue health"),
        nav="health",
        health=now,
        verdict=_("%(level)s: %(reasons)s") % {"level": LEVELS[now.status], "reasons": now.summary},
        tiles=_tiles(now),
        queues=queue_table(request, shown, past, span),
        queues_omitted=len(now.queues) - len(shown),
        reasons=now.reasons[SAID : SAID + MOST_REASONS],
        reasons_omitted=max(len(now.reasons) - SAID - MOST_REASONS, 0),
        failing=health.failing_now(now=now.generated_at) if may_view else None,
        workers=workers(now) if may_view else None,
        holds=now.holds[:MOST_HOLDS] if may_view else (),
        holds_omitted=max(len(now.holds) - MOST_HOLDS, 0),
        charts=_charts(past),
        span=span,
        spans=SPAN_LABELS.items(),
        refresh_choices=[(seconds, whole_duration(seconds)) for seconds in REFRESH_SECONDS],
    )


def queue_table(
    request: HttpRequest, queues: Sequence[QueueHealth], past: History, span: str
) -> QueueTable:
    return QueueTable(
        queues,
        url=admin_url(request),
        charts=lambda queue: _spark(queue, past, SPAN_LABELS[span]),
        span=SPAN_LABELS[span],
        may_pause=request.user.has_perm(PAUSE),
        may_view=request.user.has_perm(VIEW),
    )


@dataclass
class WorkerLine:
    id: int
    label: str
    state: str
    queues: str
    threads: int
    stuck: int  # Threads that still run a task that was taken back from this worker.
    started_at: datetime
    heartbeat_at: datetime
    is_silent: bool
    holds: int
    # The tasks that have been running the longest: (id, name, start, is past its deadline).
    running: list[tuple[int, str, datetime, bool]] = field(default_factory=list)

    @property
    def is_lost(self) -> bool:
        """Return True if nobody will finish this worker's tasks unless they are rescued."""
        return self.is_silent or self.state == WorkerState.DEAD


def workers(now: Health) -> list[WorkerLine]:
    """
    Return the workers that are not dead, and the dead ones that still hold tasks.

    Lost workers come first, then the workers whose tasks have been running the longest.
    """
    rows = Worker.objects.filter(~Q(state=WorkerState.DEAD) | Q(tasks__isnull=False)).annotate(
        # Read only a few tasks of each worker and count the rest. A worker may hold hundreds.
        holds=Window(Count("tasks"), partition_by="pk"),
        place=Window(RowNumber(), partition_by="pk", order_by=("tasks__locked_at", "tasks__pk")),
        is_lost=Case(
            When(Q(state=WorkerState.DEAD) | Q(lease_expires_at__lte=now.generated_at), then=1),
            default=0,
        ),
        is_idle=Case(When(tasks__isnull=True, then=1), default=0),
    )
    columns = (
        "pk", "label", "state", "queues", "threads", "stuck", "started_at", "heartbeat_at",
        "lease_expires_at", "holds", "tasks__pk", "tasks__task_name", "tasks__locked_at",
        "tasks__deadline_at",
    )  # fmt: skip
    found = rows.filter(place__lte=MOST_RUNNING).values_list(*columns)
    # Lost workers that hold tasks come first, so that the limit below doesn't cut them off.
    found = found.order_by("-is_lost", "is_idle", "label", "pk", "place")
    lines: dict[int, WorkerLine] = {}
    for row in found[: MOST_WORKERS * MOST_RUNNING]:
        (pk, label, state, queues, threads, stuck, started_at, heartbeat_at, lease, holds, task,
         name, since, deadline) = row  # fmt: skip
        line = lines.setdefault(
            pk,
            WorkerLine(
                id=pk,
                label=label,
                state=state,
                queues=queues,
                threads=threads,
                stuck=stuck,
                started_at=started_at,
                heartbeat_at=heartbeat_at,
                is_silent=lease <= now.generated_at,
                holds=holds,
            ),
        )
        if task is not None:
            line.running.append((task, name, since, deadline <= now.generated_at))
    worst_first = sorted(
        lines.values(),
        key=lambda line: (
            not line.is_lost,
            line.running[0][2] if line.running else now.generated_at,
        ),
    )
    return worst_first[:MOST_WORKERS]


def _tiles(now: Health) -> list[dict[str, Any]]:
    alive = now.workers
    failed, silent = int(now.total("failed_window")), alive.silent
    return [
        {
            "label": _("ready"),
            "value": f"{now.total('ready'):,}",
            "query": "status=READY",
            "note": _("oldest %s") % duration(now.oldest_ready_age) if now.oldest_ready_age else "",
        },
        {
            "label": _("scheduled"),
            "value": f"{now.total('scheduled'):,}",
            "query": "status=SCHEDULED",
            "note": _("%s retrying") % f"{now.total('retrying'):,}"
            if now.total("retrying")
            else "",
        },
        {
            "label": _("running"),
            "value": f"{now.total('running'):,}",
            "query": "status=RUNNING",
            "note": _("%s stuck") % f"{now.stuck.total:,}" if now.stuck.total else "",
        },
        {"label": _("held"), "value": f"{now.total('held'):,}", "query": "status=HELD", "note": ""},
        {
            "label": _("failed tasks"),
            "value": now.failed_number,
            "query": "status=FAILED",
            "note": _("of any age") if now.failed_tasks else "",
            "is_bad": bool(now.failed_tasks),
        },
        {
            # No list has these attempts, most of whose tasks will be retried.
            "label": _("failed attempts"),
            "value": f"{failed:,}",
            "query": "",
            "note": _("last %s") % duration(now.window),
        },
        {
            "label": _("done per minute"),
            "value": per_minute(now.throughput_per_minute),
            "query": "",
            "note": "",
        },
        {
            "label": _("workers"),
            "value": f"{alive.alive}",
            "query": "",
            "note": _("%s silent") % f"{silent:,}" if silent else _threads(alive),
        },
    ]


def _spark(queue: str, past: History, span: str | Promise) -> SafeString:
    points = past.of(queue).points
    done = sum(point.finished for point in points)
    return sparkline(
        [point.finished for point in points],
        _("done in %(queue)s, last %(span)s: %(count)s")
        % {"queue": visible(queue), "span": span, "count": f"{done:,}"},
    )


def _threads(workers: Workers) -> str:
    return ngettext(
        "%(busy)s of %(threads)s thread busy",
        "%(busy)s of %(threads)s threads busy",
        workers.threads,
    ) % {"busy": f"{workers.busy:,}", "threads": f"{workers.threads:,}"}


def _finished(attempts: int, failed: int) -> str:
    """Return two sentences, because each has its own plural."""
    return " ".join(
        [
            ngettext("%s attempt finished.", "%s attempts finished.", attempts) % f"{attempts:,}",
            ngettext("%s task failed.", "%s tasks failed.", failed) % f"{failed:,}",
        ]
    )


def _charts(past: History) -> list[Chart]:
    points = past.total.points
    times = [point.at for point in points]
    done = sum(point.finished for point in points)
    failed = sum(point.failed for point in points)
    most = max((point.ready or 0 for point in points), default=0)
    oldest = max((point.oldest_ready_age or 0.0 for point in points), default=0.0)
    return [
        Chart(
            title=_("Done"),
            summary=_finished(done, failed),
            times=times,
            bands=[
                Band("bg-done", _("successful"), [point.succeeded for point in points]),
                Band("bg-retried", _("to be retried"), [point.retried for point in points]),
                Band("bg-failed", _("failed"), [point.failed for point in points]),
            ],
        ),
        Chart(
            title=_("Backlog"),
            summary=ngettext("At most %s task was ready.", "At most %s tasks were ready.", most)
            % f"{most:,}",
            times=times,
            bands=[Band("bg-waiting", _("ready"), [point.ready for point in points])],
        ),
        Chart(
            title=_("Oldest ready"),
            summary=_("The longest wait was %s.") % duration(oldest),
            times=times,
            bands=[Band("bg-waiting", _("age"), [point.oldest_ready_age for point in points])],
            unit=duration,
        ),
    ]
