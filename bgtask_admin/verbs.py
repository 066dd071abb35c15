"""What can be done to tasks: by whom, to which of them, and by which verb of the queryset."""

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
from django.utils.translation import ngettext

from bgtask.models import TaskQuerySet
from bgtask.models.deletion import Deletion
from bgtask.status import FINISHED, WAITING, HeldFor, Status
from bgtask_admin import permissions

MAX_SPREAD = 24 * 60  # Minutes.


class Verb(models.TextChoices):
    REQUEUE = "requeue", _("Requeue")
    RESET = "reset", _("Reset attempts")
    RUN_NOW = "run_now", _("Run now")
    CANCEL = "cancel", _("Cancel")
    DELETE = "delete", _("Delete")
    PRIORITY = "priority", _("Change priority")
    QUEUE = "queue", _("Change queue")
    HOLD = "hold", _("Hold")
    RELEASE = "release", _("Release")
    # These are about a name, not about a filter.
    HOLD_TYPE = "hold_type", _("Hold task type")
    RELEASE_TYPE = "release_type", _("Release task type")
    PAUSE = "pause", _("Pause queue")
    RESUME = "resume", _("Resume queue")
    RESCUE = "rescue", _("Release a worker’s tasks")


class NoOptions(forms.Form):
    pass


class RequeueOptions(forms.Form):
    reset_attempts = forms.BooleanField(
        label=_("Reset attempts"),
        required=False,
        help_text=_("Give each all its attempts again; otherwise it has one more."),
    )
    spread = forms.IntegerField(
        label=_("Spread over minutes"),
        required=False,
        min_value=0,
        max_value=MAX_SPREAD,
        help_text=_("Empty: all of them now."),
    )


class CancelOptions(forms.Form):
    force = forms.BooleanField(
        label=_("By force"),
        required=False,
        help_text=_("Do not wait for those that run: whatever their worker says is dropped."),
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


Apply = Callable[[TaskQuerySet, Mapping[str, Any]], int | Deletion]
Narrow = Callable[[datetime], Q]


@dataclass(frozen=True, kw_only=True)
class Action:
    verb: Verb
    permission: str
    statuses: frozenset[Status]  # Of tasks on which it can be done.
    apply: Apply
    done: Callable[[int], str]  # “468 requeued”
    usual: frozenset[Status] | None = None  # Meant by a filter that names no status.
    narrow: Narrow = lambda previewed_at: Q()  # What must be true of the tasks besides.
    form: type[forms.Form] = NoOptions
    irreversible: bool = False

    @property
    def label(self) -> str | Promise:
        return self.verb.label

    @property
    def meant(self) -> frozenset[Status]:
        return self.usual or self.statuses


def _words(one: str, many: str) -> Callable[[int], str]:
    return lambda count: ngettext(one, many, count) % {"count": _grouped(count)}


def _grouped(count: int) -> str:
    return f"{count:,}"


ACTIONS: Mapping[str, Action] = MappingProxyType(
    {
        action.verb.value: action
        for action in (
            Action(
                verb=Verb.REQUEUE,
                permission=permissions.REQUEUE,
                statuses=FINISHED,
                usual=frozenset({Status.FAILED, Status.CANCELLED}),
                # What failed again since the operator looked is another matter.
                narrow=lambda previewed_at: Q(finished_at__lte=previewed_at),
                apply=lambda tasks, options: tasks.requeue(
                    reset_attempts=bool(options.get("reset_attempts")),
                    spread=60.0 * (options.get("spread") or 0),
                ),
                done=_words("%(count)s requeued", "%(count)s requeued"),
                form=RequeueOptions,
            ),
            Action(
                verb=Verb.RESET,
                permission=permissions.REQUEUE,
                statuses=WAITING,
                apply=lambda tasks, options: tasks.reset_attempts(),
                done=_words("%(count)s given all attempts", "%(count)s given all attempts"),
            ),
            Action(
                verb=Verb.RUN_NOW,
                permission=permissions.REQUEUE,
                statuses=frozenset({Status.SCHEDULED}),
                apply=lambda tasks, options: tasks.run_now(),
                done=_words("%(count)s ready now", "%(count)s ready now"),
            ),
            Action(
                verb=Verb.CANCEL,
                permission=permissions.CANCEL,
                statuses=WAITING | {Status.RUNNING},
                apply=lambda tasks, options: tasks.cancel(force=bool(options.get("force"))),
                done=_words(
                    "%(count)s cancelled or asked to stop", "%(count)s cancelled or asked to stop"
                ),
                form=CancelOptions,
            ),
            Action(
                verb=Verb.DELETE,
                permission=permissions.DELETE,
                statuses=frozenset(Status) - {Status.RUNNING},
                apply=lambda tasks, options: tasks.discard_and_report(),
                done=_words("%(count)s deleted", "%(count)s deleted"),
                irreversible=True,
            ),
            Action(
                verb=Verb.PRIORITY,
                permission=permissions.CHANGE,
                statuses=WAITING,
                apply=lambda tasks, options: tasks.reprioritise(options["priority"]),
                done=_words("%(count)s with the new priority", "%(count)s with the new priority"),
                form=PriorityOptions,
            ),
            Action(
                verb=Verb.QUEUE,
                permission=permissions.CHANGE,
                statuses=WAITING,
                apply=lambda tasks, options: tasks.move(options["queue"]),
                done=_words("%(count)s moved", "%(count)s moved"),
                form=QueueOptions,
            ),
            Action(
                verb=Verb.HOLD,
                permission=permissions.HOLD,
                statuses=frozenset({Status.READY, Status.SCHEDULED}),
                apply=lambda tasks, options: tasks.hold(),
                done=_words("%(count)s held", "%(count)s held"),
            ),
            Action(
                verb=Verb.RELEASE,
                permission=permissions.HOLD,
                statuses=frozenset({Status.HELD}),
                # While their type is on hold, a worker would only put them back.
                narrow=lambda previewed_at: ~Q(held_for=HeldFor.TYPE),
                apply=lambda tasks, options: tasks.unhold(),
                done=_words("%(count)s released", "%(count)s released"),
            ),
            Action(
                verb=Verb.HOLD_TYPE,
                permission=permissions.HOLD,
                statuses=frozenset({Status.READY, Status.SCHEDULED}),
                apply=lambda tasks, options: tasks.hold(HeldFor.TYPE),
                done=_words("%(count)s waiting task held", "%(count)s waiting tasks held"),
            ),
            Action(
                verb=Verb.RELEASE_TYPE,
                permission=permissions.HOLD,
                statuses=frozenset({Status.HELD}),
                narrow=lambda previewed_at: Q(held_for=HeldFor.TYPE),
                apply=lambda tasks, options: tasks.unhold(),
                done=_words("%(count)s task released", "%(count)s tasks released"),
            ),
        )
    }
)

# What a page offers for tasks that match a filter, and in which order.
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
    """The actions that this user may choose, and that tasks of this status allow."""
    return [
        action
        for action in (ACTIONS[verb] for verb in OFFERED)
        if user.has_perm(action.permission) and (status is None or status in action.statuses)
    ]
