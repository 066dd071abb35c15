"""Define how an attempt ended, and store its row of history if it did not succeed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bgtask import clock
from bgtask.db import DatabaseNow
from bgtask.failures import Failure
from bgtask.models import Attempt, Task
from bgtask.status import AttemptOutcome, Status


@dataclass(slots=True, eq=False)
class Outcome:
    """
    How an attempt ended.

    The outcome may be written later, since the write must match (task, token). ``status`` is the
    new status of the task. Ages are measured on this host from ``ended``, a reading of the
    monotonic clock. The write subtracts the age from the database's clock.
    """

    task: Task
    status: Status
    duration: float = 0.0  # Seconds.
    return_value: str | None = None  # JSON.
    failure: Failure | None = None
    delay: float | None = None  # For SCHEDULED: seconds from the end to the next attempt.
    run_at: datetime | None = None  # For SCHEDULED: time of the next attempt, instead of a delay.
    kind: AttemptOutcome | None = None  # None: the attempt succeeded.
    ended: float = field(default_factory=clock.monotonic)
    exception: BaseException | None = None

    @property
    def key(self) -> tuple[int, int]:
        return self.task.id, self.task.token

    @property
    def age(self) -> float:
        """Return the seconds since the attempt ended."""
        return max(clock.monotonic() - self.ended, 0.0)


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
