"""A task queue for Django, kept in the project's own database."""

from bgtask.background import BackgroundFunction, background
from bgtask.context import current_task
from bgtask.exceptions import (
    BgtaskError,
    Cancelled,
    GiveUp,
    InvalidFunction,
    InvalidOption,
    InvalidParameters,
    MalformedTask,
    Retry,
    UnknownTask,
)

__all__ = [
    "BackgroundFunction",
    "BgtaskError",
    "Cancelled",
    "GiveUp",
    "InvalidFunction",
    "InvalidOption",
    "InvalidParameters",
    "MalformedTask",
    "Retry",
    "UnknownTask",
    "background",
    "current_task",
]

__version__ = "0.1.0"
