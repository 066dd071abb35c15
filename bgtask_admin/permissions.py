"""Who may do what. Asked on the server for every page and verb; pages leave out what is refused."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied

VIEW = "bgtask.view_task"
VIEW_ARGUMENTS = "bgtask.view_task_arguments"
CHANGE = "bgtask.change_task"
REQUEUE = "bgtask.requeue_task"
CANCEL = "bgtask.cancel_task"
DELETE = "bgtask.delete_task"
HOLD = "bgtask.hold_task"
PAUSE = "bgtask.pause_queue"
MONITOR = "bgtask.monitor"


class Rights:
    """What a user may do, for templates: ``rights.requeue``."""

    def __init__(self, user: Any) -> None:
        may = user.has_perm
        self.view = may(VIEW)
        self.arguments = may(VIEW_ARGUMENTS)
        self.change = may(CHANGE)
        self.requeue = may(REQUEUE)
        self.cancel = may(CANCEL)
        self.delete = may(DELETE)
        self.hold = may(HOLD)
        self.pause = may(PAUSE)
        self.monitor = may(MONITOR)


def check_permissions(user: Any, *permissions: str) -> None:
    """Raise PermissionDenied unless the user has all of them."""
    if not user.has_perms(permissions):
        raise PermissionDenied
