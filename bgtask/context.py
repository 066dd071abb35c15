"""What a task function may ask about the task it is run for."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from bgtask.exceptions import Cancelled


@dataclass(slots=True, eq=False)
class CurrentTask:
    """
    The task being run here.

    ``(id, token)`` is new for each attempt, even where the database has lost commits: the token is
    partly random. ``id`` is the same for all attempts of a task, but it is no idempotency key on a
    database that can lose its newest commits, since another task may get the id of a lost one.
    Use a key of your own data instead, such as an order number or a UUID among the parameters.
    """

    task: Any  # A Task: models are above this module.
    # Set by other threads; read here, and never unset.
    cancel_requested: bool = False  # Has an operator asked it to stop? Known within a heartbeat.
    stop_requested: bool = False  # Is its worker about to stop?
    # When it was seen to be rescued or cancelled by force, by the monotonic clock: its outcome
    # will not count.
    lost_at: float | None = None

    @property
    def id(self) -> int:
        return int(self.task.pk)

    @property
    def token(self) -> int:
        return int(self.task.token)

    @property
    def attempt(self) -> int:
        """1 for the first execution."""
        return int(self.task.attempts)

    def raise_if_cancelled(self) -> None:
        """Raise Cancelled where an operator asked this task to stop; to be called now and then."""
        if self.cancel_requested:
            raise Cancelled(f"{self.task} was asked to stop.")


_current: ContextVar[CurrentTask | None] = ContextVar("bgtask_current_task", default=None)


def current_task() -> CurrentTask | None:
    """The task that this code is run for, or None."""
    return _current.get()
