"""
The permissions of the dashboard.

The server checks them for every page and action. Pages leave out what the user may not do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.core.exceptions import PermissionDenied

VIEW = "bgtask.view_task"
VIEW_ARGUMENTS = "bgtask.view_task_arguments"
VIEW_TRACEBACK = "bgtask.view_traceback"
CHANGE = "bgtask.change_task"
REQUEUE = "bgtask.requeue_task"
CANCEL = "bgtask.cancel_task"
DELETE = "bgtask.delete_task"
HOLD = "bgtask.hold_task"
PAUSE = "bgtask.pause_queue"
MONITOR = "bgtask.monitor"


@dataclass(frozen=True)
class Details:
    """What a reader may see of a task besides its name, status, times and class of error."""

    arguments: bool = False
    errors: bool = False  # Messages and tracebacks.

    @classmethod
    def of(cls, user: Any) -> Details:
        return cls(user.has_perm(VIEW_ARGUMENTS), user.has_perm(VIEW_TRACEBACK))


ALL_DETAILS, NO_DETAILS = Details(True, True), Details()


class Rights:
    """The permissions of a user, for templates. Example: ``rights.requeue``."""

    def __init__(self, user: Any) -> None:
        may = user.has_perm
        self.view = may(VIEW)
        self.arguments = may(VIEW_ARGUMENTS)
        self.tracebacks = may(VIEW_TRACEBACK)
        self.change = may(CHANGE)
        self.requeue = may(REQUEUE)
        self.cancel = may(CANCEL)
        self.delete = may(DELETE)
        self.hold = may(HOLD)
        self.pause = may(PAUSE)
        self.monitor = may(MONITOR)


def check_permissions(user: Any, *permissions: str) -> None:
    """Raise PermissionDenied unless the user has all these permissions."""
    if not user.has_perms(permissions):
        raise PermissionDenied
