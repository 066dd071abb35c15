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
VIEW_SCHEDULE = "bgtask.view_schedule"
CHANGE_SCHEDULE = "bgtask.change_schedule"
PAUSE_SCHEDULE = "bgtask.pause_schedule"
RUN_SCHEDULE = "bgtask.run_schedule"


@dataclass(frozen=True)
class Details:
    """
    What a reader may see of a task besides its name, status, times and class of error.

    Views use this class to leave data out. Templates use ``Rights``, to offer actions as well.
    """

    arguments: bool = False
    tracebacks: bool = False  # And the messages of errors.

    @classmethod
    def of(cls, user: Any) -> Details:
        return cls(user.has_perm(VIEW_ARGUMENTS), user.has_perm(VIEW_TRACEBACK))


ALL_DETAILS, NO_DETAILS = Details(True, True), Details()


class Rights:
    """The permissions of a user, for templates. Example: ``rights.requeue``."""

    def __init__(self, user: Any) -> None:
        may = user.has_perm
        self.view = may(VIEW)
        self.tracebacks = may(VIEW_TRACEBACK)
        self.requeue = may(REQUEUE)
        self.hold = may(HOLD)
        self.pause = may(PAUSE)
        self.schedules = may(VIEW_SCHEDULE)
        self.change_schedule = may(CHANGE_SCHEDULE)
        self.pause_schedule = may(PAUSE_SCHEDULE)
        self.run_schedule = may(RUN_SCHEDULE)


def check_permissions(user: Any, *permissions: str) -> None:
    """Raise PermissionDenied unless the user has all these permissions."""
    if not user.has_perms(permissions):
        raise PermissionDenied
