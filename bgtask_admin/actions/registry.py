"""
The actions on tasks.

An action names its permission, the statuses it allows, and the queryset method that does it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from django import forms
from django.db import models
from django.db.models import Q
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from bgtask.models import TaskQuerySet
from bgtask.models.deletion import Deletion
from bgtask.models.requeue import Requeued
from bgtask.status import TRANSITIONS, WAITING, HeldFor, Status
from bgtask_admin import permissions

MAX_SPREAD_MINUTES = 24 * 60


class Verb(models.TextChoices):
    REQUEUE = "requeue", _("Requeue")
    RESET = "reset", _("Reset attempt count")
    RUN_NOW = "run_now", _("Run now")
    CANCEL = "cancel", _("Cancel")
    DELETE = "delete", _("Delete")
    PRIORITY = "priority", _("Change priority")
    QUEUE = "queue", _("Change queue")
    HOLD = "hold", _("Hold")
    RELEASE = "release", _("Release")
    GIVE_UP_KEY = "give_up_key", _("Give up the key")
    # The following actions apply to a name, not to a filter.
    HOLD_TYPE = "hold_type", _("Hold task type")
    RELEASE_TYPE = "release_type", _("Release task type")
    PAUSE = "pause", _("Pause queue")
    RESUME = "resume", _("Resume queue")
    RESCUE = "rescue", _("Return a worker’s tasks to queue")
    # The following actions apply to a schedule.
    CREATE_SCHEDULE = "create_schedule", _("Add schedule")
    CHANGE_SCHEDULE = "change_schedule", _("Change schedule")
    RESTORE_SCHEDULE = "restore_schedule", _("Go back to the code’s schedule")
    DELETE_SCHEDULE = "delete_schedule", _("Delete schedule")
    PAUSE_SCHEDULE = "pause_schedule", _("Pause schedule")
    RESUME_SCHEDULE = "resume_schedule", _("Resume schedule")
    RUN_SCHEDULE = "run_schedule", _("Run schedule now")


class NoOptions(forms.Form):
    pass


class RequeueOptions(forms.Form):
    reset_attempts = forms.BooleanField(
        label=_("Reset attempt count"),
        required=False,
        help_text=_("Start again from attempt 1. If off: one more attempt."),
    )
    spread = forms.IntegerField(
        label=_("Spread over (minutes)"),
        required=False,
        min_value=0,
        max_value=MAX_SPREAD_MINUTES,
        help_text=_("Leave blank to run all now."),
    )


class CancelOptions(forms.Form):
    force = forms.BooleanField(
        label=_("Force"),
        required=False,
        help_text=_(
            "Don’t wait for running tasks; mark them cancelled now and ignore their result. "
            "The code keeps running until it ends."
        ),
    )


class PriorityOptions(forms.Form):
    priority = forms.IntegerField(
        label=_("Priority"),
        min_value=-2_147_483_648,
        max_value=2_147_483_647,
        help_text=_("Higher first."),
    )


class QueueOptions(forms.Form):
    queue = forms.RegexField(
        r"\A[A-Za-z0-9_.-]{1,100}\Z",
        label=_("Queue"),
        help_text=_("Up to 100 letters, digits, _, . and -"),
    )


Apply = Callable[[TaskQuerySet, Mapping[str, Any]], int | Deletion | Requeued]
Narrow = Callable[[datetime], Q]


@dataclass(frozen=True, kw_only=True)
class Action:
    verb: Verb
    permission: str
    statuses: frozenset[Status]  # The action applies only to tasks with one of these.
    apply: Apply
    usual: frozenset[Status] | None = None  # The default for a filter that names no status.
    narrow: Narrow = lambda previewed_at: Q()  # A further condition on the tasks.
    form: type[forms.Form] = NoOptions
    irreversible: bool = False

    @property
    def label(self) -> str | Promise:
        return self.verb.label

    @property
    def meant(self) -> frozenset[Status]:
        return self.usual or self.statuses


def _start(transition: str) -> frozenset[Status]:
    """Return the statuses from which this transition starts."""
    return frozenset(TRANSITIONS[transition][0])


ACTIONS: Mapping[str, Action] = MappingProxyType(
    {
        action.verb.value: action
        for action in (
            Action(
                verb=Verb.REQUEUE,
                permission=permissions.REQUEUE,
                statuses=_start("requeue"),
                usual=frozenset({Status.FAILED, Status.CANCELLED}),
                # Skip tasks that failed again after the preview: the operator didn't see that.
                narrow=lambda previewed_at: Q(finished_at__lte=previewed_at),
                apply=lambda tasks, options: tasks.requeue_and_report(
                    reset_attempts=bool(options.get("reset_attempts")),
                    spread=60.0 * (options.get("spread") or 0),
                ),
                form=RequeueOptions,
            ),
            Action(
                verb=Verb.RESET,
                permission=permissions.REQUEUE,
                statuses=WAITING,
                apply=lambda tasks, options: tasks.reset_attempts(),
            ),
            Action(
                verb=Verb.RUN_NOW,
                permission=permissions.REQUEUE,
                statuses=_start("promote"),
                apply=lambda tasks, options: tasks.run_now(),
            ),
            Action(
                verb=Verb.CANCEL,
                permission=permissions.CANCEL,
                statuses=_start("cancel"),
                apply=lambda tasks, options: tasks.cancel(force=bool(options.get("force"))),
                form=CancelOptions,
            ),
            Action(
                verb=Verb.DELETE,
                permission=permissions.DELETE,
                statuses=frozenset(Status) - {Status.RUNNING},
                apply=lambda tasks, options: tasks.discard_and_report(),
                irreversible=True,
            ),
            Action(
                verb=Verb.PRIORITY,
                permission=permissions.CHANGE,
                statuses=WAITING,
                apply=lambda tasks, options: tasks.reprioritise(options["priority"]),
                form=PriorityOptions,
            ),
            Action(
                verb=Verb.QUEUE,
                permission=permissions.CHANGE,
                statuses=WAITING,
                apply=lambda tasks, options: tasks.move(options["queue"]),
                form=QueueOptions,
            ),
            Action(
                verb=Verb.HOLD,
                permission=permissions.HOLD,
                statuses=_start("hold"),
                apply=lambda tasks, options: tasks.hold(),
            ),
            Action(
                verb=Verb.RELEASE,
                permission=permissions.HOLD,
                statuses=_start("unhold"),
                # While the task type is on hold, a worker would set these tasks aside again.
                narrow=lambda previewed_at: ~Q(held_for=HeldFor.TYPE),
                apply=lambda tasks, options: tasks.unhold(),
            ),
            Action(
                verb=Verb.GIVE_UP_KEY,
                permission=permissions.CHANGE,
                statuses=frozenset(Status),
                narrow=lambda previewed_at: Q(unique_key__isnull=False),
                apply=lambda tasks, options: tasks.give_up_key(),
            ),
            Action(
                verb=Verb.HOLD_TYPE,
                permission=permissions.HOLD,
                statuses=_start("hold"),
                apply=lambda tasks, options: tasks.hold(HeldFor.TYPE),
            ),
            Action(
                verb=Verb.RELEASE_TYPE,
                permission=permissions.HOLD,
                statuses=_start("unhold"),
                narrow=lambda previewed_at: Q(held_for=HeldFor.TYPE),
                apply=lambda tasks, options: tasks.unhold(),
            ),
        )
    }
)

# The actions that a page offers for tasks that match a filter, in this order.
OFFERED = (
    Verb.REQUEUE,
    Verb.RUN_NOW,
    Verb.CANCEL,
    Verb.HOLD,
    Verb.RELEASE,
    Verb.RESET,
    Verb.PRIORITY,
    Verb.QUEUE,
    Verb.DELETE,
)


def offered(user: Any, status: str | None = None) -> list[Action]:
    """Return the actions that this user may choose and that apply to tasks of this status."""
    return [
        action
        for action in (ACTIONS[verb] for verb in OFFERED)
        if may_do(user, action) and (status is None or status in action.statuses)
    ]


def may_do(user: Any, action: Action) -> bool:
    return bool(user.has_perm(action.permission))
