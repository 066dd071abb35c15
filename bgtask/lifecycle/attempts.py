"""Write the history of a task: a row for each attempt that did not succeed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bgtask.db import DatabaseNow
from bgtask.failures import Failure
from bgtask.lifecycle.outcome import Outcome
from bgtask.models import Attempt, Task
from bgtask.status import AttemptOutcome


def record_attempts(alias: str, attempts: Iterable[Attempt]) -> None:
    """Store these rows. Storing the same end twice is harmless: (task, token) is unique."""
    Attempt.objects.using(alias).bulk_create(list(attempts), ignore_conflicts=True)


def attempt_of(outcome: Outcome, kind: AttemptOutcome) -> Attempt:
    """Return the row for an attempt that ended ``outcome.age`` seconds ago."""
    # Read ``age`` only once, since it grows. Otherwise the two times would not fit together, and
    # the attempt could seem to end before it started.
    age = outcome.age
    return build_attempt(
        outcome.task,
        kind,
        outcome.failure,
        started_at=DatabaseNow(-(age + outcome.duration)),
        finished_at=DatabaseNow(-age),
    )


def build_attempt(
    task: Task, kind: AttemptOutcome, failure: Failure | None, started_at: Any, finished_at: Any
) -> Attempt:
    """Return an unsaved row. The times may be expressions."""
    return Attempt(
        task_id=task.pk,
        token=task.token,
        number=task.attempts,
        worker=task.last_worker,
        started_at=started_at,
        finished_at=finished_at,
        outcome=kind,
        error_class=failure.error_class if failure else "",
        message=failure.message if failure else "",
        traceback=failure.traceback if failure else "",
        error_fingerprint=failure.fingerprint if failure else "",
    )
