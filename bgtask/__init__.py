"""A task queue for Django, kept in the project's own database."""

from bgtask.context import current_task
from bgtask.decorators import BackgroundFunction, background
from bgtask.exceptions import (
    AlreadyThere,
    BgtaskError,
    Cancelled,
    GiveUp,
    Interrupted,
    InvalidFunction,
    InvalidOption,
    InvalidParameters,
    MalformedTask,
    Retry,
    TimedOut,
    UnknownTask,
    Unstorable,
    WorkerLost,
)
from bgtask.schedules.declarations import recurring

__all__ = [
    "AlreadyThere",
    "BackgroundFunction",
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
    "background",
    "current_task",
    "recurring",
]

__version__ = "0.1.0"
