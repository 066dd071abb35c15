"""What a task function may ask about the task it is run for."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bgtask.models import Task


@dataclass(frozen=True, slots=True)
class CurrentTask:
    """The task being run here. ``(id, token)`` is new for each attempt."""

    task: Task
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def id(self) -> int:
        return int(self.task.pk)

    @property
    def token(self) -> int:
        return self.task.token

    @property
    def attempt(self) -> int:
        """1 for the first execution."""
        return self.task.attempts

    @property
    def cancel_requested(self) -> bool:
        """Has an operator asked it to stop? Known within a heartbeat."""
        return self._cancelled.is_set()

    def request_cancel(self) -> None:
        self._cancelled.set()

    @property
    def stop_requested(self) -> bool:
        """Is its worker about to stop?"""
        return self._stopping.is_set()


_current: ContextVar[CurrentTask | None] = ContextVar("bgtask_current_task", default=None)


def current_task() -> CurrentTask | None:
    """The task that this code is run for, or None."""
    return _current.get()
