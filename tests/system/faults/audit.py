"""
Compare the enqueued tasks with the database and the execution log.

Every task must be accounted for:

    enqueued and committed = succeeded + failed + cancelled + still pending, each exactly once
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from bgtask.conf import get_settings
from bgtask.models import Attempt, Task
from bgtask.status import FINISHED, AttemptOutcome, Status
from tests.execution_log import Execution, ExecutionLog

TAKEN_AWAY = frozenset(AttemptOutcome) - {AttemptOutcome.FAILED}


@dataclass
class Audit:
    committed: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    executions: dict[int, int] = field(default_factory=dict)  # Executions → tasks.
    # Two executions of a task at the same time. The first task was rescued, which is allowed,
    # because tasks run at least once.
    overlaps: int = 0
    recovery: list[float] = field(default_factory=list)  # Seconds from a death to a start.

    # All of these lists must be empty.
    lost: list[int] = field(default_factory=list)  # Committed, but without a row.
    pending: list[int] = field(default_factory=list)  # Not ended when all should be.
    unknown: list[int] = field(default_factory=list)  # Executed without a row.
    unproved: list[int] = field(default_factory=list)  # SUCCESSFUL, but the run did not end.
    unexplained: list[int] = field(default_factory=list)  # FAILED without an Attempt row.
    doubled: list[int] = field(default_factory=list)  # Overlap without a rescue.
    twice: list[int] = field(default_factory=list)  # One (task, token) executed twice.
    convicted: list[int] = field(default_factory=list)  # FAILED by crashes, though not alone.

    def faults(self) -> dict[str, list[int]]:
        names = (
            "lost",
            "pending",
            "unknown",
            "unproved",
            "unexplained",
            "doubled",
            "twice",
            "convicted",
        )
        return {name: found for name in names if (found := getattr(self, name))}

    def check(self) -> Audit:
        __tracebackhide__ = True
        assert not self.faults(), f"{self.faults()}: {self.rows()}"
        return self

    def rows(self) -> list[dict[str, Any]]:
        """Return columns of the faulty tasks, for a reader who has to find the cause."""
        ids = {id_ for found in self.faults().values() for id_ in found[:5]}
        names = ("id", "task_name", "status", "attempts", "crashes", "token", "last_worker")
        return list(Task.objects.filter(pk__in=ids).values(*names))


def audit(
    execution_log: ExecutionLog,
    committed: Iterable[int],
    deaths: Mapping[int, Sequence[float]] | None = None,
) -> Audit:
    """
    Return what was found wrong, and some figures.

    ``deaths`` says when processes were killed, by process id, on the monotonic clock. Several
    processes may have had the same id.
    """
    committed = set(committed)
    rows = {row[0]: row[1:] for row in Task.objects.values_list("pk", "status", "token")}
    attempts: dict[int, dict[int, str]] = defaultdict(dict)
    for task, token, outcome in Attempt.objects.values_list("task", "token", "outcome"):
        attempts[task][token] = outcome
    by_task: dict[int, list[Execution]] = defaultdict(list)
    for one in execution_log.executions():
        by_task[one.task].append(one)

    found = Audit(committed=len(committed))
    found.statuses = dict(Counter(str(status) for status, _ in rows.values()))
    found.executions = dict(sorted(Counter(len(by_task.get(id_, ())) for id_ in rows).items()))
    found.lost = sorted(committed - rows.keys())
    found.pending = sorted(id_ for id_, (status, _) in rows.items() if status not in FINISHED)
    found.unknown = sorted(by_task.keys() - rows.keys())
    for id_, (status, token) in rows.items():
        ended = {one.start.token for one in by_task.get(id_, ()) if one.end is not None}
        if status == Status.SUCCESSFUL and token not in ended:
            found.unproved.append(id_)
        if status == Status.FAILED and not attempts[id_]:
            found.unexplained.append(id_)
    for id_, executions in by_task.items():
        if len({one.start.token for one in executions}) < len(executions):
            found.twice.append(id_)
        executions.sort(key=lambda one: one.start.monotonic)
        for one, other in pairwise(executions):
            death = _death_of(one, deaths or {})
            if _ran_until(one, death) > other.start.monotonic:
                found.overlaps += 1
                if attempts[id_].get(one.start.token) not in TAKEN_AWAY:
                    found.doubled.append(id_)
            elif one.end is None and death is not None:
                found.recovery.append(other.start.monotonic - death)
    found.convicted = sorted(_failed_beside_others())
    return found


def _death_of(one: Execution, deaths: Mapping[int, Sequence[float]]) -> float | None:
    """Return when its process was killed: the first time since, because ids are reused."""
    return min((t for t in deaths.get(one.start.pid, ()) if t > one.start.monotonic), default=None)


def _ran_until(one: Execution, death: float | None) -> float:
    """Return when an execution ended, or its start if that is unknown.

    It is unknown if the end was not logged and the process was not killed by the tests.
    """
    if one.end is not None:
        return one.end.monotonic
    return death if death is not None else one.start.monotonic


def _failed_beside_others() -> Iterator[int]:
    """
    Yield tasks that FAILED by crashes, if their worker held others at one of the last two crashes.

    The first crash may hit other tasks of the worker and makes them suspects, which run alone. A
    process that was declared dead registers again under the same label. The tasks that it lost
    before it claimed this one were not beside it.
    """
    crashes: dict[int, list[tuple[str, datetime, datetime]]] = defaultdict(list)
    in_hand: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    lost = Attempt.objects.filter(outcome=AttemptOutcome.LOST).order_by("token")
    for task, worker, claimed, at in lost.values_list(
        "task", "worker", "started_at", "finished_at"
    ):
        crashes[task].append((worker, claimed, at))
        in_hand[worker].append((at, task))
    moment = timedelta(seconds=1)
    convicted = Task.objects.failed().filter(crashes__gte=get_settings().max_crashes)
    for task in convicted.values_list("pk", flat=True):
        hands = {
            other
            for worker, claimed, at in crashes[task][-2:]
            for when, other in in_hand[worker]
            if abs(when - at) < moment and when >= claimed
        }
        if hands != {task}:
            yield task
