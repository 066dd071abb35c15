"""Write how attempts ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask.db import TooLarge, again_after_deadlock, operations_for
from bgtask.db.routing import queue_alias
from bgtask.lifecycle.attempts import Outcome, attempt_of, record_attempts
from bgtask.models import Attempt, Task
from bgtask.status import FINISHED, AttemptOutcome, Status

SMALL_CHARACTERS = 8 * 2**10  # Outcomes with texts up to this size are written without a split.
ROW_BYTES = 1_500  # Size of an outcome in a statement, without its long texts.


def finish_attempts(outcomes: Sequence[Outcome]) -> dict[int, str]:
    """
    Write how these attempts ended, with a row of history for each that did not succeed.

    Return the new status by id of the tasks that still belonged to their attempt. The others
    were rescued or cancelled meanwhile, and are not changed. A batch of successes writes no
    history and takes a single statement. Raise TooLarge if an outcome does not fit into a
    statement of this database.
    """
    connection = connections[queue_alias()]
    accepted: dict[int, str] = {}
    for batch in _batches(connection, outcomes):
        # On MariaDB, the end of a unique task and an enqueue with its key can deadlock.
        accepted |= again_after_deadlock(connection, partial(_finish, connection, batch))
    return accepted


def _batches(
    connection: BaseDatabaseWrapper, outcomes: Sequence[Outcome]
) -> Iterator[Sequence[Outcome]]:
    """Yield the outcomes in batches, so that the database accepts each batch in one statement."""
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
    rows = [_row(connection, outcome) for outcome in outcomes]
    if not any(outcome.kind for outcome in outcomes):
        return operations.finish(connection, rows)
    with operations.transaction(connection):
        accepted = operations.finish(connection, rows)
        record_attempts(
            connection.alias,
            (attempt_of(one, one.kind) for one in outcomes if one.kind and one.task.id in accepted),
        )
    return accepted


def _row(connection: BaseDatabaseWrapper, outcome: Outcome) -> tuple[Any, ...]:
    """Return the values of OUTCOME_COLUMNS."""
    failure = outcome.failure
    run_at = outcome.run_at
    return (
        outcome.task.id,
        outcome.task.token,
        outcome.status.value,
        outcome.age,
        outcome.duration,
        round(outcome.duration * 1000),
        outcome.delay,
        run_at and connection.ops.adapt_datetimefield_value(run_at),
        outcome.return_value,
        failure.traceback if failure else "",
        failure.message if failure else None,
        failure.error_class if failure else "",
        failure.fingerprint if failure else "",
    )


def already_finished(outcomes: Sequence[Outcome]) -> dict[int, str]:
    """
    Return the new status by id of the outcomes that were accepted by a flush without a reply.

    Every other transition from RUNNING raises the token. So the same token with another status is
    proof. If the attempt failed and the task was claimed again since, a row of history is proof.
    """
    tasks = Task.objects.all()
    keys = {outcome.key: outcome for outcome in outcomes}
    ids = [id_ for id_, _ in keys]
    rows = tasks.filter(pk__in=ids).exclude(status=Status.RUNNING)
    found = {
        # A task that waits now was made SCHEDULED by the outcome, and has changed since.
        id_: status if status in FINISHED else keys[id_, token].status
        for id_, token, status in rows.values_list("pk", "token", "status")
        if (id_, token) in keys
    }
    # Only read rows of failures. The other rows are about attempts that were rescued or cancelled.
    history = Attempt.objects.using(tasks.db).filter(task__in=ids, outcome=AttemptOutcome.FAILED)
    for key in history.values_list("task", "token"):
        if key in keys:
            found.setdefault(key[0], keys[key].status)
    return found
