"""
Read the figures in four cheap queries.

It takes one more if there are no tasks to count, and up to two more if a queue is behind. No
query writes. Of the finished tasks, only the FAILED ones are counted, up to a limit. The results
of attempts are read from TaskStats. Counting finished tasks would cost more with every task that
finishes. It would also miss the attempts that failed and will be retried.

The module is long because one statement reads the figures of several tables.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from django.db.models import (
    Case,
    Count,
    DateTimeField,
    F,
    FloatField,
    IntegerField,
    Max,
    Min,
    Q,
    Subquery,
    Sum,
    TextField,
    Value,
    When,
)
from django.db.models.functions import Cast

from bgtask.db import DatabaseNow, SecondsSince
from bgtask.db.functions import LimitedCount, StatusLiteral
from bgtask.db.routing import database_now, queue_alias
from bgtask.health.behind import behind_since
from bgtask.health.thresholds import Thresholds
from bgtask.health.types import Health, LateSchedule, QueueHealth, Stopped, Stuck, Workers
from bgtask.models import QueuePause, Schedule, Task, TaskHold, TaskStats, Worker
from bgtask.models.task_queryset import retry_condition
from bgtask.status import Status, WorkerState

THROUGHPUT_WINDOW_SECONDS = 300.0
LISTED_SECONDS = 3600.0  # Seconds for which a queue is shown after its last result.
MAX_FAILED_TASKS = 10_000  # FAILED tasks that are counted. By default, they are never deleted.
MAX_DATED_QUEUES = 20  # Queues for which to find out since when they have been behind.

_NONE = Value(0, output_field=IntegerField())
_NO_AGE = Value(0.0, output_field=FloatField())
_NO_TIME = Value(None, output_field=DateTimeField())
_ALL = ""  # Stands for all queues together. No queue can have this name.
_EMPTY_PART = {"since": _NO_TIME, "age": _NO_AGE, "first": _NONE, "second": _NONE, "third": _NONE}
_COLUMNS = ("kind", "queue", "now", "number", "since", "age", "first", "second", "third")


def measure(queues: Sequence[str] | None = None, thresholds: Thresholds | None = None) -> Health:
    """
    Return the figures alone, without a verdict.

    They are those of ``queues``, or of all queues that have tasks, results, limits or a pause.
    """
    thresholds = thresholds or Thresholds.in_force()
    pauses, holds, late = _stops()
    paused, on_hold = ({stop.name for stop in stops} for stops in (pauses, holds))
    figures: dict[str, dict[str, Any]] = defaultdict(dict)
    for name in {*paused, *thresholds.queues} if queues is None else queues:
        figures[name] = {}
    now = _add_tasks(figures, queues, paused, on_hold) or database_now(queue_alias())
    failed = figures.pop(_ALL, {}).get("failed", 0) if queues is None else None
    _add_results(figures, queues, thresholds, now)
    _add_behind(figures, thresholds, now)
    workers, of_all, of_some = _workers()
    for name, figure in figures.items():
        figure["served_by"] = of_all + of_some[name]
    running = sum(figure.get("running", 0) for figure in figures.values())
    held_by_nobody = sum(
        figure["stuck"].silent + figure["stuck"].lost
        for figure in figures.values()
        if "stuck" in figure
    )
    return Health(
        generated_at=now,
        window=thresholds.window,
        failed_tasks=None if failed is None else min(failed, MAX_FAILED_TASKS),
        failed_tasks_at_least=failed is not None and failed > MAX_FAILED_TASKS,
        queues=tuple(
            QueueHealth(name=name, paused=name in paused, **figure)
            for name, figure in sorted(figures.items())
        ),
        workers=Workers(**workers, busy=running - held_by_nobody),
        holds=holds,
        pauses=pauses,
        late_schedules=late if queues is None else None,
    )


class _Stops(NamedTuple):
    pauses: tuple[Stopped, ...]  # Queues, by name.
    holds: tuple[Stopped, ...]  # Names of tasks, by name.
    late: tuple[LateSchedule, ...]  # By slot.


def _stops() -> _Stops:
    """Return the paused queues, the names that are on hold, and the late schedules."""
    pauses = QueuePause.objects.in_force().values_list(
        Value("queue", TextField()), "queue", "paused_at", "expires_at", "paused_by", "reason"
    )
    holds = TaskHold.objects.in_force().values_list(
        Value("name", TextField()), "task_name", "held_at", "expires_at", "held_by", "reason"
    )
    nothing = Value("", TextField())
    late = Schedule.objects.late().values_list(
        Value("late", TextField()), "key", "next_at", "end_at", nothing, nothing
    )
    stopped: dict[str, list[Stopped]] = {"queue": [], "name": [], "late": []}
    for kind, name, since, until, by, reason in sorted(
        pauses.union(holds, late, all=True), key=itemgetter(0, 1)
    ):
        stopped[kind].append(Stopped(name=name, since=since, until=until, by=by, reason=reason))
    by_slot = sorted(stopped["late"], key=attrgetter("since"))
    return _Stops(
        tuple(stopped["queue"]),
        tuple(stopped["name"]),
        tuple(LateSchedule(key=one.name, since=one.since) for one in by_slot),
    )


def _add_tasks(
    figures: dict[str, dict[str, Any]],
    queues: Sequence[str] | None,
    paused: set[str],
    on_hold: set[str],
) -> datetime | None:
    """Add the figures of live tasks; return the database's time, or None if there are no tasks."""
    now = None
    tasks = Task.objects.order_by()
    failed = [] if queues is not None else [_failed(tasks)]
    if queues is not None:
        tasks = tasks.filter(queue__in=queues)
    # Each status has a partial index of its own, so each gets a SELECT of its own.
    parts = [
        _part(
            tasks,
            Status.READY,
            # Group by crashes too, which precedes the queue in the index of claims. So the
            # database need not sort the rows.
            by=("crashes", "queue"),
            since=Min("run_at", filter=~Q(task_name__in=on_hold)) if on_hold else Min("run_at"),
        ),
        _part(tasks, Status.SCHEDULED, first=Count("pk", filter=retry_condition())),
        _part(
            tasks,
            Status.RUNNING,
            age=Max(SecondsSince("locked_at")),
            first=_stuck(lost=False, silent=False, deadline_at__lte=DatabaseNow()),
            second=_stuck(lost=False, silent=True),
            third=_stuck(lost=True),
        ),
        _part(tasks, Status.HELD),
        *failed,
    ]
    for kind, queue, now, number, since, age, first, second, third in parts[0].union(
        *parts[1:], all=True
    ):
        figure = figures[queue]
        match kind:
            case Status.READY:
                figure["ready"] = figure.get("ready", 0) + number
                if since is not None and queue not in paused:
                    since = min(since, figure.get("oldest_ready_since", since))
                    figure["oldest_ready_since"] = since
                    figure["oldest_ready_age"] = max((now - since).total_seconds(), 0.0)
            case Status.SCHEDULED:
                figure["scheduled"], figure["retrying"] = number, first
            case Status.RUNNING:
                figure["running"], figure["max_running_seconds"] = number, max(float(age), 0.0)
                figure["stuck"] = Stuck(overdue=first, silent=second, lost=third)
            case Status.HELD:
                figure["held"] = number
            case Status.FAILED:
                figure["failed"] = number
    return now


def _failed(tasks: Any) -> Any:
    """Return one row with the number of FAILED tasks, or none if there are none."""
    # With the condition on finished_at, a partial index has all that this query reads.
    failed = tasks.filter(status=StatusLiteral(Status.FAILED), finished_at__isnull=False)
    newest = failed.order_by("-finished_at", "-pk").values("pk")[:1]
    row = {
        **_EMPTY_PART,
        "kind": Value(Status.FAILED.value, output_field=TextField()),
        "all": Value(_ALL, output_field=TextField()),
        "now": DatabaseNow(),
        "number": LimitedCount(failed, MAX_FAILED_TASKS),
    }
    columns = ("kind", "all", *_COLUMNS[2:])
    return tasks.filter(pk=Subquery(newest)).annotate(**row).values_list(*columns)


def _part(tasks: Any, status: Status, by: Sequence[str] = ("queue",), **columns: Any) -> Any:
    row = {
        "kind": Value(status.value, output_field=TextField()),
        "now": Max(DatabaseNow()),
        "number": Count("pk"),
        **_EMPTY_PART,
        **columns,
    }
    return (
        tasks.filter(status=StatusLiteral(status))
        .values(*by)
        .annotate(**row)
        .values_list(*_COLUMNS)
    )


def _stuck(*, lost: bool, silent: bool | None = None, **others: Any) -> Count:
    condition = Q(locked_by__state=WorkerState.DEAD)
    if not lost:
        condition = ~condition
    if silent is not None:
        condition &= (
            Q(locked_by__lease_expires_at__lte=DatabaseNow())
            if silent
            else Q(locked_by__lease_expires_at__gt=DatabaseNow())
        )
    return Count("pk", filter=condition & Q(**others))


def _add_behind(figures: dict[str, dict[str, Any]], thresholds: Thresholds, now: datetime) -> None:
    """Add since when the oldest task of a queue has been waiting for longer than its limit."""
    limits: dict[str, float] = {}
    by_age = sorted(figures, key=lambda name: -figures[name].get("oldest_ready_age", 0.0))
    for name in by_age[:MAX_DATED_QUEUES]:
        allowed = thresholds.of(name).oldest_ready
        if allowed is not None and figures[name].get("oldest_ready_age", 0.0) > allowed[0]:
            limits[name] = allowed[0]
    for name, since in behind_since(limits, now).items():
        figures[name]["behind_since"] = since


def _add_results(
    figures: dict[str, dict[str, Any]],
    queues: Sequence[str] | None,
    thresholds: Thresholds,
    now: datetime,
) -> None:
    windows = {*thresholds.windows, THROUGHPUT_WINDOW_SECONDS}
    begins = {window: _minute(now - timedelta(seconds=window)) for window in windows}
    columns: dict[str, Any] = {}
    for number, window in enumerate(sorted(windows)):
        within = Q(minute__gte=begins[window])
        columns |= {
            f"ended_{number}": Sum(F("succeeded") + F("failed") + F("retried"), filter=within),
            f"failed_{number}": Sum(F("failed") + F("retried"), filter=within),
        }
    oldest = _minute(now - timedelta(seconds=max(LISTED_SECONDS, *windows)))
    results = TaskStats.objects.filter(minute__gte=oldest)
    if queues is not None:
        results = results.filter(queue__in=queues)
    found = {
        row["queue"]: {
            window: (int(row[f"ended_{number}"] or 0), int(row[f"failed_{number}"] or 0))
            for number, window in enumerate(sorted(windows))
        }
        for row in results.values("queue").annotate(**columns)
    }
    for queue in {*figures, *found}:
        limits = thresholds.of(queue)
        ended, failed = found.get(queue, {}).get(limits.failure_window, (0, 0))
        lately, _ = found.get(queue, {}).get(THROUGHPUT_WINDOW_SECONDS, (0, 0))
        minutes = (now - begins[THROUGHPUT_WINDOW_SECONDS]).total_seconds() / 60
        figures[queue] |= {
            "window": limits.failure_window,
            "finished_window": ended,
            "failed_window": failed,
            "failure_ratio": failed / ended if ended >= limits.failure_sample else None,
            "throughput_per_minute": lately / minutes,
        }


def _minute(when: datetime) -> datetime:
    return when.replace(second=0, microsecond=0)


def _workers() -> tuple[dict[str, Any], int, Counter[str]]:
    """Return the workers' figures, and how many claim from all queues and from each named one."""
    silent = Case(When(lease_expires_at__lte=DatabaseNow(), then=Value(1)), default=Value(0))
    groups: Iterable[Any] = (
        Worker.objects.living()
        .annotate(silent=silent)
        .values_list("state", "silent", "queues")
        .annotate(
            number=Count("pk"),
            threads=Cast(Sum("threads"), IntegerField()),
            age=Max(SecondsSince("heartbeat_at")),
        )
    )
    figures: dict[str, Any] = {"alive": 0, "stopping": 0, "silent": 0, "threads": 0}
    ages, of_all, of_some = [0.0], 0, Counter[str]()
    for state, is_silent, queues, number, threads, age in groups:
        ages.append(float(age))
        if is_silent:
            figures["silent"] += number
        elif state == WorkerState.STOPPING:
            figures["stopping"] += number
        else:
            figures["alive"] += number
            figures["threads"] += threads
            names = set(queues.split(",")) - {""}
            of_all += 0 if names else number
            of_some.update(dict.fromkeys(names, number))
    return {**figures, "heartbeat_age_max": max(ages)}, of_all, of_some
