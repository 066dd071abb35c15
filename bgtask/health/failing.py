"""What is failing now, grouped by error."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Max, Min

from bgtask.health.literal import Literal
from bgtask.models import Attempt, Task
from bgtask.models.manager import database_time
from bgtask.status import AttemptOutcome, Status

CAP = 10_000  # No more attempts are looked at.


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroup:
    """Failed attempts of one fingerprint."""

    fingerprint: str
    error_class: str
    message: str  # First line of the newest.
    count: int  # Attempts that failed in the window.
    tasks: int  # Different tasks among them.
    failed: int  # Tasks that are FAILED with this error now, whenever that was: to be requeued.
    first_seen: datetime  # In the window.
    last_seen: datetime
    task_names: tuple[str, ...]  # The most frequent first.
    queues: tuple[str, ...]  # Likewise.
    newest_task: int  # Id of the task that failed last.


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingNow:
    since: datetime  # Later than asked for where there were too many failures to look at.
    until: datetime
    capped: bool
    groups: tuple[ErrorGroup, ...]  # The most frequent first.


def failing_now(window: float = 3600, limit: int = 20) -> FailingNow:
    """The errors of the last ``window`` seconds, of very many attempts only of the newest."""
    now = database_time(Attempt.objects.all().db)
    since, failures = now - timedelta(seconds=window), Attempt.objects.order_by()
    failures = failures.exclude(outcome=AttemptOutcome.CANCELLED).filter(finished_at__gt=since)
    newest = failures.order_by("-finished_at", "-id").values_list("finished_at", flat=True)
    capped = list(newest[CAP : CAP + 1])
    if capped:
        since = capped[0]
        failures = failures.filter(finished_at__gt=since)
    groups = _grouped(failures)
    worst = sorted(groups.values(), key=lambda group: group.count, reverse=True)[:limit]
    messages = Attempt.objects.filter(pk__in=[group.newest for group in worst]).values_list(
        "error_fingerprint", "error_class", "message", "task"
    )
    described = {
        fingerprint: (error_class, message, task)
        for fingerprint, error_class, message, task in messages
    }
    failed = dict(
        Task.objects.filter(status=Literal(Status.FAILED), error_fingerprint__in=described)
        .order_by()
        .values_list("error_fingerprint")
        .annotate(number=Count("pk"))
    )
    return FailingNow(
        since=since,
        until=now,
        capped=bool(capped),
        groups=tuple(
            group.finished(*described[group.fingerprint], failed=failed.get(group.fingerprint, 0))
            for group in worst
            if group.fingerprint in described  # Else it was pruned this moment.
        ),
    )


@dataclass
class _Group:
    """What adds up to an ErrorGroup: there is a row for each task name and queue."""

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
            message=message.strip().split("\n", 1)[0][:200],
            count=self.count,
            tasks=self.tasks,
            failed=failed,
            first_seen=self.first,
            last_seen=self.last,
            task_names=tuple(name for name, _ in self.names.most_common()),
            queues=tuple(name for name, _ in self.queues.most_common()),
            newest_task=task,
        )


def _grouped(failures: Any) -> dict[str, _Group]:
    rows = failures.values_list("error_fingerprint", "task__task_name", "task__queue").annotate(
        count=Count("pk"),
        tasks=Count("task", distinct=True),
        first=Min("finished_at"),
        last=Max("finished_at"),
        newest=Max("pk"),
    )
    groups: dict[str, _Group] = {}
    for fingerprint, name, queue, count, tasks, first, last, newest in rows:
        group = groups.setdefault(fingerprint, _Group(fingerprint, first, last, newest))
        group.first, group.last = min(group.first, first), max(group.last, last)
        group.newest = max(group.newest, newest)
        group.count += count
        group.tasks += tasks
        group.names[name] += count
        group.queues[queue] += count
    return groups
