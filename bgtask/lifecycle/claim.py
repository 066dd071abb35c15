"""Claim READY tasks for a worker, and release or set aside those that it does not start."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple

from django.db import connections
from django.db.models import Case, F, QuerySet, Value, When
from django.db.models.expressions import Combinable

from bgtask import registry
from bgtask.conf import get_settings
from bgtask.db import MAX_HEADS, Claimant, DatabaseNow, Head, QueueSnapshot, operations_for
from bgtask.db.functions import attempts_without_one, key_of_finished, raised_token
from bgtask.db.internals import new_instance
from bgtask.db.routing import queue_alias
from bgtask.db.sql import CLAIMED, as_priority
from bgtask.models import Task, TaskQuerySet, Worker
from bgtask.status import HeldFor, Status

NOT_RUNNING: dict[str, Any] = {"locked_by": None, "locked_at": None, "deadline_at": None}


def take_snapshot(
    queues: Sequence[str] | None = None, after: str = "", limit: int = MAX_HEADS
) -> QueueSnapshot:
    """
    Return a snapshot of these queues, or of all: which have tasks, and what must not be started.

    Without ``queues``, the snapshot has the heads of the first ``limit`` queues whose names are
    greater than ``after``.
    """
    connection = connections[queue_alias()]
    return operations_for(connection).snapshot(connection, queues, after, limit)


def claim_queue(
    worker: Worker,
    queue: str,
    limit: int,
    after: tuple[Any, ...] | None = None,
    floor: int | None = None,
) -> list[Task]:
    """
    Claim up to ``limit`` ready tasks of this queue, the first in claim order.

    ``floor`` is the lowest priority to claim. ``after`` is the claim key of a task that was
    claimed before. The claim begins there and leaves out other priorities, so a short result
    does not mean that the queue is empty.
    """
    return claim_these(Task.objects.claimable(queue, after, floor)[:limit], worker)


def claim_heads(worker: Worker, heads: Sequence[Head], limit: int) -> list[Task]:
    """Claim up to ``limit`` of these heads of many queues, in this order."""
    tasks = Task.objects.all()
    connection = connections[tasks.db]
    rows = operations_for(connection).claim_heads(connection, heads, limit, _claimant(worker))
    return _instances(tasks, rows, worker)


def claim_notified(worker: Worker, queue: str, limit: int) -> list[Task]:
    """
    Claim up to ``limit`` tasks of a queue that a notification named.

    The same statement checks pauses and holds, since no snapshot was taken.
    """
    tasks = Task.objects.all()
    connection = connections[tasks.db]
    rows = operations_for(connection).claim_notified(connection, queue, limit, _claimant(worker))
    return _instances(tasks, rows, worker)


def claim_suspect(
    worker: Worker, queues: Sequence[str] | None = None, paused: Iterable[str] = ()
) -> list[Task]:
    """Claim one suspect. The worker runs it while it runs nothing else."""
    suspects = Task.objects.suspects().exclude(queue__in=tuple(paused))
    if queues is not None:
        suspects = suspects.filter(queue__in=queues)
    return claim_these(suspects[:1], worker)


def claim_these(tasks: TaskQuerySet, worker: Worker) -> list[Task]:
    """Claim these READY tasks, except those that another worker is claiming right now."""
    rows = operations_for(connections[tasks.db]).claim(tasks, _claimant(worker))
    return _instances(tasks, rows, worker)


def _claimant(worker: Worker) -> Claimant:
    return Claimant(worker.pk, worker.label, get_settings().max_run_time)


class SortedClaims(NamedTuple):
    """Claimed tasks, grouped by whether the worker may start them."""

    startable: list[Task]
    on_hold: list[Task]
    unknown: list[Task]  # No function of this name is registered in this process.


def sort_claims(tasks: Iterable[Task], on_hold: frozenset[str]) -> SortedClaims:
    """Return these tasks grouped by whether they may be started, given the names on hold."""
    claims = SortedClaims([], [], [])
    known: dict[object, bool] = {}
    for task in tasks:
        name = task.task_name
        if name in on_hold:
            claims.on_hold.append(task)
            continue
        if name not in known:
            known[name] = not isinstance(name, str) or registry.knows(name)
        if known[name]:
            claims.startable.append(task)
        else:
            claims.unknown.append(task)
    return claims


def release_claims(tasks: Sequence[Task]) -> int:
    """Release claimed tasks that were not started; return how many. The attempts don't count."""
    released = _end_claims(tasks, status=Status.READY)
    if released:
        connection = connections[queue_alias()]
        operations_for(connection).wake(connection, "")
    return released


def set_aside_claims(tasks: Sequence[Task], held_for: HeldFor) -> int:
    """
    Set aside claimed tasks that can't or must not be started; return how many.

    Their attempts do not count.
    """
    return _end_claims(tasks, status=Status.HELD, held_for=held_for)


def _end_claims(tasks: Sequence[Task], *, status: Status, **changes: Any) -> int:
    by_token: dict[int, list[int]] = defaultdict(list)
    for task in tasks:
        by_token[task.token].append(task.id)
    total = 0
    for token, ids in by_token.items():
        ours = Task.objects.filter(pk__in=sorted(ids), token=token, status=Status.RUNNING)
        total += ours.update(
            status=_unless_cancelled(Value(status.value)),
            finished_at=Case(When(cancel_requested=True, then=DatabaseNow()), default=None),
            unique_key=Case(
                When(cancel_requested=True, then=key_of_finished()), default=F("unique_key")
            ),
            token=raised_token(),
            attempts=attempts_without_one(),
            **{name: _unless_cancelled(Value(value), None) for name, value in changes.items()},
            **NOT_RUNNING,
        )
    return total


def _unless_cancelled(then: Combinable, cancelled: Any = Status.CANCELLED.value) -> Case:
    return Case(When(cancel_requested=True, then=Value(cancelled)), default=then)


def _instances(
    candidates: QuerySet[Any], rows: Iterable[Sequence[Any]], worker: Worker
) -> list[Task]:
    """
    Return tasks from rows of RETURNED and ORDER, in claim order. Defer the other fields.

    Code that runs for each task reads ``id``. The property ``pk`` takes ten times as long.
    """
    alias = candidates.db
    claimed = {"status": "RUNNING", "locked_by_id": worker.pk, "last_worker": worker.label}
    tasks = []
    for row in rows:
        task = new_instance(Task, alias)
        state = task.__dict__
        state.update(zip(CLAIMED, row, strict=False))
        state.update(claimed)
        task.returned = row
        run_at, waited = row[-2:]
        try:
            task.waited = max(float(waited), 0.0)
            task.claim_key = (-task.priority, run_at, task.id)
        except TypeError:  # Edited by hand. This task fails when it is run, and no other task now.
            task.waited = 0.0
            run_at = datetime.min if run_at is None else run_at
            task.claim_key = (-as_priority(task.priority), run_at, task.id)
        tasks.append(task)
    tasks.sort(key=attrgetter("claim_key"))
    return tasks
