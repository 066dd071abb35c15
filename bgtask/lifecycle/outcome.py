"""How an attempt ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from bgtask import clock
from bgtask.failures import Failure
from bgtask.models import Task
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
        return self.task.pk, self.task.token

    @property
    def age(self) -> float:
        """Return the seconds since the attempt ended."""
        return max(clock.monotonic() - self.ended, 0.0)
