"""Whole sentences about each action, for pages, messages and commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext, ngettext_lazy

from bgtask.models.deletion import ERROR
from bgtask.status import WAITING, Status
from bgtask_admin.actions.registry import Verb
from bgtask_admin.models import Operation

# Reasons to skip a task, besides its status.
GONE = "gone"  # The task no longer matches.
# A prefix before the name of a table. Rows of this table refer to the task, or the deletion
# raised an error.
REFERRED = "referred:"
KEY_HELD = "key held by:"  # A prefix before the id of the task that holds the unique key.


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """The texts for one action. ``asked`` and ``done`` depend on the number of tasks."""

    asked: Any  # “Requeue 468 tasks”
    asked_all: str | Promise  # Used if the number is not known.
    done: Any  # “468 tasks requeued.”
    impossible: str | Promise  # No task allows the action.


SENTENCES: Mapping[str, Sentences] = {
    Verb.REQUEUE: Sentences(
        asked=ngettext_lazy("Requeue %(count)s task", "Requeue %(count)s tasks", "number"),
        asked_all=_("Requeue all matching tasks"),
        done=ngettext_lazy("%(count)s task requeued.", "%(count)s tasks requeued.", "number"),
        impossible=_("None of these tasks can be requeued."),
    ),
    Verb.RESET: Sentences(
        asked=ngettext_lazy(
            "Reset the attempt count of %(count)s task",
            "Reset the attempt count of %(count)s tasks",
            "number",
        ),
        asked_all=_("Reset the attempt count of all matching tasks"),
        done=ngettext_lazy(
            "Attempt count of %(count)s task reset.",
            "Attempt count of %(count)s tasks reset.",
            "number",
        ),
        impossible=_("The attempt count of none of these tasks can be reset."),
    ),
    Verb.RUN_NOW: Sentences(
        asked=ngettext_lazy("Run %(count)s task now", "Run %(count)s tasks now", "number"),
        asked_all=_("Run all matching tasks now"),
        done=ngettext_lazy(
            "%(count)s task is ready now.", "%(count)s tasks are ready now.", "number"
        ),
        impossible=_("None of these tasks can be run now."),
    ),
    Verb.CANCEL: Sentences(
        asked=ngettext_lazy("Cancel %(count)s task", "Cancel %(count)s tasks", "number"),
        asked_all=_("Cancel all matching tasks"),
        done=ngettext_lazy(
            "%(count)s task cancelled, or asked to stop if it is running.",
            "%(count)s tasks cancelled, or asked to stop if they are running.",
            "number",
        ),
        impossible=_("None of these tasks can be cancelled."),
    ),
    Verb.DELETE: Sentences(
        asked=ngettext_lazy("Delete %(count)s task", "Delete %(count)s tasks", "number"),
        asked_all=_("Delete all matching tasks"),
        done=ngettext_lazy("%(count)s task deleted.", "%(count)s tasks deleted.", "number"),
        impossible=_("None of these tasks can be deleted."),
    ),
    Verb.PRIORITY: Sentences(
        asked=ngettext_lazy(
            "Change the priority of %(count)s task",
            "Change the priority of %(count)s tasks",
            "number",
        ),
        asked_all=_("Change the priority of all matching tasks"),
        done=ngettext_lazy(
            "Priority of %(count)s task changed.", "Priority of %(count)s tasks changed.", "number"
        ),
        impossible=_("The priority of none of these tasks can be changed."),
    ),
    Verb.QUEUE: Sentences(
        asked=ngettext_lazy(
            "Change the queue of %(count)s task", "Change the queue of %(count)s tasks", "number"
        ),
        asked_all=_("Change the queue of all matching tasks"),
        done=ngettext_lazy(
            "%(count)s task moved to another queue.",
            "%(count)s tasks moved to another queue.",
            "number",
        ),
        impossible=_("None of these tasks can be moved to another queue."),
    ),
    Verb.HOLD: Sentences(
        asked=ngettext_lazy("Hold %(count)s task", "Hold %(count)s tasks", "number"),
        asked_all=_("Hold all matching tasks"),
        done=ngettext_lazy("%(count)s task held.", "%(count)s tasks held.", "number"),
        impossible=_("None of these tasks can be held."),
    ),
    Verb.RELEASE: Sentences(
        asked=ngettext_lazy("Release %(count)s task", "Release %(count)s tasks", "number"),
        asked_all=_("Release all matching tasks"),
        done=ngettext_lazy("%(count)s task released.", "%(count)s tasks released.", "number"),
        impossible=_("None of these tasks can be released."),
    ),
    Verb.GIVE_UP_KEY: Sentences(
        asked=ngettext_lazy(
            "Give up the unique key of %(count)s task",
            "Give up the unique keys of %(count)s tasks",
            "number",
        ),
        asked_all=_("Give up the unique keys of all matching tasks"),
        done=ngettext_lazy(
            "Unique key of %(count)s task given up.",
            "Unique keys of %(count)s tasks given up.",
            "number",
        ),
        impossible=_("None of these tasks holds a unique key."),
    ),
    Verb.HOLD_TYPE: Sentences(
        asked=ngettext_lazy(
            "Hold %(count)s waiting task", "Hold %(count)s waiting tasks", "number"
        ),
        asked_all=_("Hold all waiting tasks"),
        done=ngettext_lazy(
            "%(count)s waiting task held.", "%(count)s waiting tasks held.", "number"
        ),
        impossible=_("None of these tasks can be held."),
    ),
    Verb.RELEASE_TYPE: Sentences(
        asked=ngettext_lazy("Release %(count)s task", "Release %(count)s tasks", "number"),
        asked_all=_("Release all matching tasks"),
        done=ngettext_lazy("%(count)s task released.", "%(count)s tasks released.", "number"),
        impossible=_("None of these tasks can be released."),
    ),
}
# Used if the filter or the options tell whether the cancelled tasks were running.
_CANCELLED = ngettext_lazy("%(count)s task cancelled.", "%(count)s tasks cancelled.", "number")
_ASKED_TO_STOP = ngettext_lazy(
    "%(count)s running task asked to stop.", "%(count)s running tasks asked to stop.", "number"
)


def asked(verb: str, count: int | None) -> str:
    """Return the text of a button. ``count`` is None if the number of tasks is not known."""
    words = SENTENCES[verb]
    return str(words.asked_all) if count is None else _counted(words.asked, count)


def done(operation: Operation) -> str:
    words = SENTENCES[operation.verb].done
    if operation.verb == Verb.CANCEL:
        status = operation.filter_data.get("status")
        if operation.option_data.get("force") or status in WAITING:
            words = _CANCELLED
        elif status == Status.RUNNING:
            words = _ASKED_TO_STOP
    return _counted(words, operation.changed)


def skipped(reasons: Mapping[str, int], *, with_messages: bool) -> list[str]:
    """
    Return a sentence for each reason, the most frequent first.

    Without ``with_messages``, name only the class of an error.
    """
    return [_skipped(key, count, with_messages) for key, count in Counter(reasons).most_common()]


def _counted(words: Any, count: int) -> str:
    """Return the text with its count. ``number`` chooses the plural, ``count`` is displayed."""
    return str(words % {"number": count, "count": f"{count:,}"})


_SKIPPED: Mapping[str, Any] = {
    Status.RUNNING: ngettext_lazy(
        "%(count)s task skipped: already running.",
        "%(count)s tasks skipped: already running.",
        "number",
    ),
    Status.READY: ngettext_lazy(
        "%(count)s task skipped: already ready.",
        "%(count)s tasks skipped: already ready.",
        "number",
    ),
    Status.SCHEDULED: ngettext_lazy(
        "%(count)s task skipped: already scheduled.",
        "%(count)s tasks skipped: already scheduled.",
        "number",
    ),
    Status.HELD: ngettext_lazy(
        "%(count)s task skipped: held.", "%(count)s tasks skipped: held.", "number"
    ),
    Status.SUCCESSFUL: ngettext_lazy(
        "%(count)s task skipped: already successful.",
        "%(count)s tasks skipped: already successful.",
        "number",
    ),
    Status.FAILED: ngettext_lazy(
        "%(count)s task skipped: already failed.",
        "%(count)s tasks skipped: already failed.",
        "number",
    ),
    Status.CANCELLED: ngettext_lazy(
        "%(count)s task skipped: already cancelled.",
        "%(count)s tasks skipped: already cancelled.",
        "number",
    ),
    GONE: ngettext_lazy(
        "%(count)s task skipped: it changed meanwhile.",
        "%(count)s tasks skipped: they changed meanwhile.",
        "number",
    ),
}


def _skipped(key: str, count: int, with_messages: bool) -> str:
    if key in _SKIPPED:
        return _counted(_SKIPPED[key], count)
    if key.startswith(KEY_HELD):
        words = ngettext(
            "%(count)s task skipped: task %(holder)s has its key.",
            "%(count)s tasks skipped: task %(holder)s has their key.",
            count,
        )
        return words % {"count": f"{count:,}", "holder": key.removeprefix(KEY_HELD)}
    if not key.startswith(REFERRED):  # A status of a newer release, or one edited by hand.
        words = ngettext(
            "%(count)s task skipped: its status is %(status)s.",
            "%(count)s tasks skipped: their status is %(status)s.",
            count,
        )
        return words % {"count": f"{count:,}", "status": key}
    table = key.removeprefix(REFERRED)
    if table.startswith(ERROR):
        words = ngettext(
            "%(count)s task skipped: %(error)s.", "%(count)s tasks skipped: %(error)s.", count
        )
        error = table.removeprefix(ERROR)
        error = error if with_messages else error.partition(":")[0]
        return words % {"count": f"{count:,}", "error": error}
    words = ngettext(
        "%(count)s task skipped: rows of %(table)s refer to it.",
        "%(count)s tasks skipped: rows of %(table)s refer to them.",
        count,
    )
    return words % {"count": f"{count:,}", "table": table}
