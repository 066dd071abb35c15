"""The page of an error group: all failures with one fingerprint."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from django.contrib.admin import AdminSite
from django.db import connections
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from bgtask.db.routing import database_now, queue_alias
from bgtask.models import Attempt, Task, TaskHold
from bgtask_admin.permissions import VIEW, Details
from bgtask_admin.tasks.counts import CAP, capped
from bgtask_admin.ui import formatting
from bgtask_admin.ui.charts import Band, Chart
from bgtask_admin.ui.pages import admin_url, page, permission_required
from bgtask_admin.ui.tracebacks import sections

NEWEST = 2_000  # Number of tasks to read for the counts by name, queue and worker.
HOURS = 24


@permission_required(VIEW)
def error_group(request: HttpRequest, site: AdminSite, fingerprint: str) -> HttpResponse:
    failed = Task.objects.failed().filter(error_fingerprint=fingerprint)
    if "\x00" in fingerprint and connections[failed.db].vendor == "postgresql":
        raise Http404  # PostgreSQL text can't contain NUL, and the query would fail.
    attempts = Attempt.objects.filter(error_fingerprint=fingerprint)
    newest = attempts.select_related("task").order_by("-finished_at", "-id").first()
    oldest = attempts.order_by("finished_at", "id").values_list("finished_at", flat=True).first()
    rows = list(
        failed.order_by("-finished_at", "-id").values_list(
            "pk", "task_name", "queue", "last_worker", "finished_at", "attempts"
        )[:NEWEST]
    )
    number = capped(failed) if len(rows) == NEWEST else len(rows)
    names = Counter(row[1] for row in rows)
    if newest and not names:
        names[newest.task.task_name] = 0
    now = database_now(queue_alias())
    may_see = Details.of(request.user).errors
    tasks_url = admin_url(request)("bgtask_task_changelist")
    return page(
        request,
        site,
        "errors/group.html",
        status=200 if newest or rows else 404,
        title=formatting.visible(newest.error_class if newest else _("No such error")),
        nav="health",
        fingerprint=fingerprint,
        failed_url=f"{tasks_url}?status=FAILED&fingerprint={quote(fingerprint, safe='')}",
        newest=newest,
        first_seen=oldest,
        number=number,
        count=formatting.count(number, CAP),
        sections=sections(newest.traceback) if newest and may_see else [],
        names=names.most_common(10),
        queues=Counter(row[2] for row in rows).most_common(10),
        workers=Counter(row[3] or _("unknown") for row in rows).most_common(10),
        sampled=len(rows),
        samples=rows[:5],
        chart=_chart(attempts, now),
        held=set(
            TaskHold.objects.in_force()
            .filter(task_name__in=list(names))
            .values_list("task_name", flat=True)
        ),
    )


def _chart(attempts: Any, now: datetime) -> Chart:
    """Return a chart of the failed attempts of the last day, in steps of 15 minutes."""
    steps = HOURS * 4
    start = now - timedelta(hours=HOURS)
    times = list(
        attempts.filter(finished_at__range=(start, now))
        .order_by("-finished_at", "-id")
        .values_list("finished_at", flat=True)[:CAP]
    )
    counts = Counter(int((at - start).total_seconds() // 900) for at in times)
    return Chart(
        title=_("Failed attempts, last 24 h"),
        summary=ngettext("%s attempt failed.", "%s attempts failed.", len(times))
        % formatting.count(len(times), CAP - 1),
        bands=[Band("bg-failed", _("failed attempts"), [counts[i] for i in range(steps)])],
        times=[start + timedelta(minutes=15 * i) for i in range(steps)],
    )
