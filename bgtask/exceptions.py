"""Everything bgtask raises, and what a task function may raise to say what comes next.

BgtaskError
├── InvalidFunction    this function cannot be a background function (also a TypeError)
├── InvalidParameters  these parameters cannot be kept as JSON (also a TypeError)
├── InvalidOption      this is no such schedule, queue, priority … (also a ValueError)
├── MalformedTask      a stored task whose parameters cannot be read
├── UnknownTask        no background function has this name in this process
├── Cancelled          raised by a task function: end here, as an operator asked
├── GiveUp             raised by a task function: fail now, do not try again
└── Retry              raised by a task function: try again, then or after that long
"""

from __future__ import annotations

from datetime import datetime, timedelta

__all__ = [
    "BgtaskError",
    "Cancelled",
    "GiveUp",
    "InvalidFunction",
    "InvalidOption",
    "InvalidParameters",
    "MalformedTask",
    "Retry",
    "UnknownTask",
]


class BgtaskError(Exception):
    """Base class; catch it to catch anything bgtask raises."""


class InvalidFunction(BgtaskError, TypeError):
    """This function cannot be a background function."""


class InvalidParameters(BgtaskError, TypeError):
    """These parameters cannot be kept as JSON."""


class InvalidOption(BgtaskError, ValueError):
    """This is no such schedule, queue, priority …"""


class MalformedTask(BgtaskError):
    """A stored task whose parameters cannot be read, or whose numbers are out of range."""


class UnknownTask(BgtaskError, LookupError):
    """No background function has this name in this process."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"No background function is named {name!r} here. Is it decorated with @background, "
            "in the tasks.py of an app that is in INSTALLED_APPS?"
        )
        self.name = name


class Cancelled(BgtaskError):
    """Raised by a task function: end here, as an operator asked. The task is CANCELLED."""


class GiveUp(BgtaskError):
    """Raised by a task function: fail now, do not try again."""


class Retry(BgtaskError):
    """
    Raised by a task function to ask for another attempt at a time of its own choice.

    ``in_`` is seconds or a timedelta from now, ``at`` a datetime; neither means the usual
    back-off. The attempt counts, as any other: past ``max_attempts`` the task fails.
    """

    in_: float | None = None  # Also where a subclass does not call __init__.
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
