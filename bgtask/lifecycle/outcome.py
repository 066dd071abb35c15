"""How an attempt ended."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime

from bgtask.failures import Failure
from bgtask.models import Task
from bgtask.status import AttemptOutcome, Status


@dataclass(slots=True, eq=False)
class Outcome:
    """
    How an attempt ended, to be written when convenient: (task, token) is the fence.

    ``status`` is what the task becomes. Ages are measured on this host from ``ended``, a reading
    of the monotonic clock, and subtracted from the database's clock when written.
    """

    task: Task
    status: Status
    duration: float = 0.0  # Seconds.
    return_value: str | None = None  # JSON.
    failure: Failure | None = None
    delay: float | None = None  # Seconds from the end to the next attempt, for SCHEDULED …
    run_at: datetime | None = None  # … or when it is to be.
    kind: AttemptOutcome | None = None  # None: it succeeded.
    ended: float = field(default_factory=time.monotonic)
    exception: BaseException | None = None

    @property
    def key(self) -> tuple[int, int]:
        return self.task.pk, self.task.token

    @property
    def age(self) -> float:
        """Seconds since the attempt ended."""
        return max(time.monotonic() - self.ended, 0.0)
