"""Find what is failing now, grouped by error."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import Count, F, Max, Min, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce

from bgtask.db.functions import StatusLiteral
from bgtask.db.routing import database_now
from bgtask.failures import first_line
from bgtask.models import Attempt, Task
from bgtask.status import AttemptOutcome, Status

CAP = 10_000  # Greatest number of attempts that are read.
NO_FAILURES = (AttemptOutcome.CANCELLED, AttemptOutcome.INTERRUPTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroup:
    """The failed attempts that share a fingerprint."""

    fingerprint: str
    error_class: str
    message: str  # First line of the newest message.
    count: int  # Attempts that failed in the window.
    tasks: int  # Number of different tasks that these attempts belong to.
    failed: int  # Tasks that are FAILED with this error now, since any time. They can be requeued.
    first_seen: datetime  # In the window.
    last_seen: datetime
    task_names: tuple[str, ...]  # The most frequent first.
    queues: tuple[str, ...]  # The most frequent first.
    newest_task: int  # Id of the task that failed last.


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingNow:
    """The error groups of a period."""

    since: datetime  # Later than asked for if there were more than CAP failures.
    until: datetime
    capped: bool
    groups: tuple[ErrorGroup, ...]  # The most frequent first.


def failing_now(window: float = 3600, limit: int = 20, now: datetime | None = None) -> FailingNow:
    """
    Return the most frequent errors of the last ``window`` seconds, at most ``limit`` of them.

    If there are more than CAP failed attempts, only the newest are read. Run two queries, or
    three if ``now`` is omitted.
    """
    now = now or database_now(Attempt.objects.all().db)
    groups, since, capped = _grouped(now - timedelta(seconds=window))
    worst = sorted(groups.values(), key=lambda group: group.count, reverse=True)[:limit]
    failed = (
        Task.objects.filter(
            status=StatusLiteral(Status.FAILED), error_fingerprint=OuterRef("error_fingerprint")
        )
        .order_by()
        .values("error_fingerprint")
        .annotate(number=Count("pk"))
        .values("number")
    )
    described = {
        fingerprint: details
        for fingerprint, *details in Attempt.objects.filter(
            pk__in=[group.newest for group in worst]
        ).values_list(
            "error_fingerprint", "error_class", "message", "task", Coalesce(Subquery(failed), 0)
        )
    }
    return FailingNow(
        since=since,
        until=now,
        capped=capped,
        groups=tuple(
            group.finished(*described[group.fingerprint])
            for group in worst
            if group.fingerprint in described  # If not, it was pruned just now.
        ),
    )


@dataclass
class _Group:
    """The sums for an ErrorGroup, from one row for each task name and queue."""

    fingerprint: str
    first: datetime
    last: datetime
    newest: int
    count: int = 0
    tasks: int = 0
    names: Counter[str] = field(default_factory=Counter)
    queues: Counter[str] = field(default_factory=Counter)

    def finished(self, error_class: str, message: str, task: int, failed: int) -> ErrorGroup:
        return ErrorGroup(
            fingerprint=self.fingerprint,
            error_class=error_class,
            message=first_line(message, 200),
            count=self.count,
            tasks=self.tasks,
            failed=failed,
            first_seen=self.first,
            last_seen=self.last,
            task_names=tuple(name for name, _ in self.names.most_common()),
            queues=tuple(name for name, _ in self.queues.most_common()),
            newest_task=task,
        )


def _grouped(since: datetime) -> tuple[dict[str, _Group], datetime, bool]:
    """
    Return the groups by fingerprint, the start of the period, and whether it was capped.

    If it was, the start is later than ``since``.
    """
    recent = Attempt.objects.exclude(outcome__in=NO_FAILURES).filter(finished_at__gt=since)
    newest = recent.order_by("-finished_at", "-id").values("finished_at")
    rows = (
        recent.order_by()
        .annotate(since=Subquery(newest[CAP : CAP + 1]))
        .filter(Q(since=None) | Q(finished_at__gt=F("since")))
        .values_list("error_fingerprint", "task__task_name", "task__queue", "since")
        .annotate(
            count=Count("pk"),
            tasks=Count("task", distinct=True),
            first=Min("finished_at"),
            last=Max("finished_at"),
            newest=Max("pk"),
        )
    )
    groups: dict[str, _Group] = {}
    capped = False
    for fingerprint, name, queue, later, count, tasks, first, last, newest_id in rows:
        if later is not None:
            since, capped = later, True
        group = groups.setdefault(fingerprint, _Group(fingerprint, first, last, newest_id))
        group.first, group.last = min(group.first, first), max(group.last, last)
        group.newest = max(group.newest, newest_id)
        group.count += count
        group.tasks += tasks
        group.names[name] += count
        group.queues[queue] += count
    return groups, since, capped
