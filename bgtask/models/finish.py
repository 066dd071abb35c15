"""The ways out of RUNNING that a worker takes: its outcomes, and what it puts back unstarted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Case, Value, When
from django.db.models.expressions import Combinable

from bgtask.db import DatabaseNow, TooLarge, operations_for
from bgtask.models.counters import attempts_without_one, raised_token
from bgtask.status import FINISHED, AttemptOutcome, Status

if TYPE_CHECKING:
    from bgtask.models.outcome import Outcome
    from bgtask.models.task import Task
    from bgtask.models.task_queryset import TaskQuerySet

SMALL_CHARACTERS = 8 * 2**10  # Outcomes with texts up to this size are written as they come.
ROW_BYTES = 1_500  # An outcome without its long texts, in a statement.

NOT_RUNNING: dict[str, Any] = {"locked_by": None, "locked_at": None, "deadline_at": None}


def finish(connection: BaseDatabaseWrapper, outcomes: Sequence[Outcome]) -> dict[int, str]:
    """See TaskQuerySet.finish. A success, which leaves no history, is a single statement."""
    accepted: dict[int, str] = {}
    for batch in _batches(connection, outcomes):
        accepted |= _finish(connection, batch)
    return accepted


def _batches(
    connection: BaseDatabaseWrapper, outcomes: Sequence[Outcome]
) -> Iterator[Sequence[Outcome]]:
    """Split outcomes with long texts, so that each statement is one that the database takes."""
    if sum(map(_characters, outcomes)) <= SMALL_CHARACTERS:
        if outcomes:
            yield outcomes
        return
    operations = operations_for(connection)
    room = operations.statement_bytes(connection)
    batch: list[Outcome] = []
    used = 0
    for outcome in outcomes:
        size = sum(map(operations.sent_bytes, _texts(outcome))) + ROW_BYTES
        if size > room:
            raise TooLarge(
                f"The outcome of {outcome.task} takes {size:,} bytes in a statement, which is too "
                f"many for the database's limit ({operations.limit_in_words(connection)})."
            )
        if batch and used + size > room:
            yield batch
            batch, used = [], 0
        batch.append(outcome)
        used += size
    yield batch


def _texts(outcome: Outcome) -> list[str]:
    failure = outcome.failure
    return [outcome.return_value or "", *((failure.traceback, failure.message) if failure else ())]


def _characters(outcome: Outcome) -> int:
    failure = outcome.failure
    value = outcome.return_value
    if failure is None:
        return len(value) if value else 0
    return len(value or "") + len(failure.traceback) + len(failure.message)


def _finish(connection: BaseDatabaseWrapper, outcomes: Sequence[Outcome]) -> dict[int, str]:
    """Write outcomes that fit into one statement."""
    operations = operations_for(connection)
    if not any(outcome.kind for outcome in outcomes):
        return operations.finish(connection, outcomes)
    with operations.transaction(connection):
        accepted = operations.finish(connection, outcomes)
        _record(connection, (outcome for outcome in outcomes if outcome.task.pk in accepted))
    return accepted


def finished_before(tasks: TaskQuerySet, outcomes: Sequence[Outcome]) -> dict[int, str]:
    """
    Which of these were accepted by a flush whose reply was lost, and the status they got.

    Every other way out of RUNNING raises the token, so the same token and not RUNNING is
    proof. A task that was claimed again since has left a row of history, if it failed.
    """
    from bgtask.models.attempt import Attempt

    keys = {outcome.key: outcome for outcome in outcomes}
    ids = [id_ for id_, _ in keys]
    rows = tasks.filter(pk__in=ids).exclude(status=Status.RUNNING)
    found = {
        # What waits by now was SCHEDULED then, and has moved on.
        id_: status if status in FINISHED else keys[id_, token].status
        for id_, token, status in rows.values_list("pk", "token", "status")
        if (id_, token) in keys
    }
    # Of its failure, that is: the other rows tell of attempts that were taken away.
    history = Attempt.objects.using(tasks.db).filter(task__in=ids, outcome=AttemptOutcome.FAILED)
    for key in history.values_list("task", "token"):
        if key in keys:
            found.setdefault(key[0], keys[key].status)
    return found


def return_claims(
    queryset: TaskQuerySet, tasks: Sequence[Task], *, status: Status, **changes: Any
) -> int:
    """What was claimed and not started; the attempt does not count."""
    by_token: dict[int, list[int]] = defaultdict(list)
    for task in tasks:
        by_token[task.token].append(task.pk)
    total = 0
    for token, ids in by_token.items():
        ours = queryset.filter(pk__in=sorted(ids), token=token, status=Status.RUNNING)
        total += ours.update(
            status=_unless_cancelled(Value(status.value)),
            finished_at=Case(When(cancel_requested=True, then=DatabaseNow()), default=None),
            token=raised_token(),
            attempts=attempts_without_one(),
            **{name: _unless_cancelled(Value(value), None) for name, value in changes.items()},
            **NOT_RUNNING,
        )
    return total


def _record(connection: BaseDatabaseWrapper, outcomes: Iterable[Outcome]) -> None:
    from bgtask.models.attempt import Attempt

    Attempt.objects.using(connection.alias).bulk_create(
        [
            Attempt(
                task_id=outcome.task.pk,
                token=outcome.task.token,
                number=outcome.task.attempts,
                worker=outcome.task.last_worker,
                # Read once: its age grows, and it would seem to end before it started.
                started_at=DatabaseNow(-((age := outcome.age) + outcome.duration)),
                finished_at=DatabaseNow(-age),
                outcome=outcome.kind,
                error_class=outcome.failure.error_class if outcome.failure else "",
                message=outcome.failure.message if outcome.failure else "",
                traceback=outcome.failure.traceback if outcome.failure else "",
                error_fingerprint=outcome.failure.fingerprint if outcome.failure else "",
            )
            for outcome in outcomes
            if outcome.kind
        ],
        ignore_conflicts=True,
    )


def _unless_cancelled(then: Combinable, cancelled: Any = Status.CANCELLED.value) -> Case:
    return Case(When(cancel_requested=True, then=Value(cancelled)), default=then)
