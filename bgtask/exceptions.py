"""Define the exceptions that bgtask raises, and those that a task function can raise.

BgtaskError
├── InvalidFunction    the function can't be a background function (also a TypeError)
├── InvalidParameters  the parameters can't be stored as JSON (also a TypeError)
├── InvalidOption      an option, such as a schedule or a queue, is wrong (also a ValueError)
├── AlreadyThere       another task holds the unique key, and on_conflict is "raise"
├── MalformedTask      the parameters of a stored task can't be read
├── UnknownTask        no background function has this name in this process
├── WorkerLost         the worker of an attempt died; only stored, with Interrupted, TimedOut and
│                      Unstorable, and never raised
├── Cancelled          raised by a task function to end here, as an operator asked
├── GiveUp             raised by a task function to fail now, without another attempt
└── Retry              raised by a task function to ask for another attempt, at a chosen time
"""

from __future__ import annotations

from datetime import datetime, timedelta

__all__ = [
    "AlreadyThere",
    "BgtaskError",
    "Cancelled",
    "GiveUp",
    "Interrupted",
    "InvalidFunction",
    "InvalidOption",
    "InvalidParameters",
    "MalformedTask",
    "Retry",
    "TimedOut",
    "UnknownTask",
    "Unstorable",
    "WorkerLost",
]


class BgtaskError(Exception):
    """The base class of bgtask's exceptions. Catch it to catch any of them."""


class InvalidFunction(BgtaskError, TypeError):
    """The function can't be a background function."""


class InvalidParameters(BgtaskError, TypeError):
    """The parameters can't be stored as JSON."""


class InvalidOption(BgtaskError, ValueError):
    """An option is wrong, such as a schedule, a queue or a priority."""


class AlreadyThere(BgtaskError):
    """
    Another task holds the unique key of this call, so nothing was stored.

    ``task_id`` is the primary key of that task, and ``key`` is the unique key. The transaction of
    the caller stays usable.
    """

    def __init__(self, message: str, *, key: str, task_id: int | None) -> None:
        super().__init__(message)
        self.key = key
        self.task_id = task_id


class MalformedTask(BgtaskError):
    """The parameters of a stored task can't be read, or its numbers are out of range."""


class UnknownTask(BgtaskError, LookupError):
    """No background function has this name in this process."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"No background function is named {name!r} here. Is it decorated with @background, "
            "in the tasks.py of an app that is in INSTALLED_APPS? If it is in another module, "
            "import that module in the ready() of the app's AppConfig."
        )
        self.name = name


class WorkerLost(BgtaskError):
    """The worker died while it held the task. Stored as the error of an attempt, never raised."""


class Interrupted(BgtaskError):
    """The worker was stopped, and left the task. Stored as the error of an attempt."""


class TimedOut(BgtaskError):
    """The attempt ran longer than MAX_RUN_TIME. Stored as the error of an attempt."""


class Unstorable(BgtaskError):
    """The database refused the text of an error. Stored as the error of an attempt instead."""


class Cancelled(BgtaskError):
    """
    Raised by a task function to end here, as an operator asked.

    The task becomes CANCELLED.
    """


class GiveUp(BgtaskError):
    """
    Raised by a task function to fail now, without another attempt.

    The task becomes FAILED.
    """


class Retry(BgtaskError):
    """
    Raised by a task function to ask for another attempt, at a time of its choice.

    ``in_`` is the wait from now, in seconds or as a timedelta. ``at`` is a datetime. Give one of
    them, or neither for the usual back-off. The attempt counts like any other. If it was the last
    of ``max_attempts``, the task fails.
    """

    in_: float | None = None  # For subclasses that don't call __init__.
    at: datetime | None = None

    def __init__(
        self,
        message: str = "",
        *,
        in_: float | timedelta | None = None,
        at: datetime | None = None,
    ) -> None:
        if in_ is not None and at is not None:
            raise InvalidOption("Retry takes either in_= or at=, not both.")
        if isinstance(in_, timedelta):
            in_ = in_.total_seconds()
        super().__init__(message or "The task asked for another attempt.")
        self.in_ = in_
        self.at = at
