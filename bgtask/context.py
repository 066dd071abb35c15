"""Give a task function access to the task that it is called for."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bgtask.exceptions import Cancelled


@dataclass(slots=True, eq=False)
class CurrentTask:
    """
    The task that is running here, as ``current_task()`` returns it.

    A function that runs for long should read it from time to time, so that it can be stopped::

        @background
        def import_members(path):
            for row in read(path):
                if (current := current_task()) is not None:
                    current.raise_if_cancelled()
                import_member(row)

    A ``CurrentTask`` has these attributes:
        task              the ``Task``
        cancel_requested  whether an operator has asked this task to stop, or its worker has lost
                          it; a worker notices a request with its next heartbeat
        stop_requested    whether the worker is about to stop; it gives running tasks GRACE_PERIOD
        lost_at           when the worker noticed that the task was rescued or was cancelled by
                          force, in seconds of ``time.monotonic()``; None while it has not.
                          The outcome of a lost attempt is not recorded.
        slot              the slot of the schedule that enqueued the task, or None

    ``(id, token)`` is new for each attempt. Since the token is partly random, this holds even if
    the database has lost commits. ``id`` is the same for all attempts of a task.

    Don't use ``id`` as an idempotency key on a database that can lose its newest commits. Another
    task may get the id of a lost one. Use a key of your own data instead, such as an order number
    or a UUID among the parameters.
    """

    task: Any  # A Task. This module is in a layer below the models, so it can't name the class.
    # Other threads set these fields. The task's thread reads them, and nothing unsets them.
    cancel_requested: bool = False
    stop_requested: bool = False
    lost_at: float | None = None

    @property
    def id(self) -> int:
        """Return the primary key of the task, which is the same for all of its attempts."""
        return int(self.task.pk)

    @property
    def token(self) -> int:
        """Return the token of this attempt, a number that is new for each claim of the task."""
        return int(self.task.token)

    @property
    def attempt(self) -> int:
        """Return the number of this attempt, which is 1 for the first execution."""
        return int(self.task.attempts)

    @property
    def slot(self) -> datetime | None:
        """
        Return the slot for which a schedule enqueued the task, or None.

        It is the time at which the task was due by the schedule, however late it runs. Each access
        reads it from the database.
        """
        return find_slot(self.id)

    def raise_if_cancelled(self) -> None:
        """
        Raise Cancelled if an operator has asked this task to stop.

        Call this now and then in a function that runs for long. If the function doesn't catch
        Cancelled, the task becomes CANCELLED.
        """
        if self.cancel_requested:
            raise Cancelled(f"{self.task} was asked to stop.")


def find_slot(task_id: int) -> datetime | None:
    """Return the slot of the task, or None. ``bgtask.schedules`` replaces this function."""
    return None


_current: ContextVar[CurrentTask | None] = ContextVar("bgtask_current_task", default=None)


def current_task() -> CurrentTask | None:
    """
    Return the task that this code is running for, or None.

    It is None in code that no worker runs, such as a view or a function that is called by
    ``now()``.
    """
    return _current.get()
