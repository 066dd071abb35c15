"""Say which part of the tasks a list has searched, and offer to search the others."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from bgtask.status import Status
from bgtask_admin.tasks.selection import Selection
from bgtask_admin.ui import formatting

# Periods to offer for a search of error texts, and what ``since`` is then.
_PERIODS: tuple[tuple[timedelta, str, str | Promise], ...] = (
    (timedelta(days=7), "7d", gettext_lazy("Search the last 7 days →")),
    (timedelta(days=9_999), "9999d", gettext_lazy("Search any time →")),
)


@dataclass(frozen=True)
class Offer:
    """A link to a search of tasks that this search has left out."""

    label: str
    query: str


@dataclass(frozen=True)
class Extent:
    """What a page of the list has searched."""

    looked_at: int  # Number of tasks. 0: all, from where the search started.
    is_further: bool  # The search didn't start at the beginning of the list.
    by_id: bool  # The list begins with the newest task.

    @property
    def is_all(self) -> bool:
        return not self.looked_at and not self.is_further

    def found(self, number: int, shown: str) -> str:
        """Return “3 tasks match.”, or “3 tasks found among the newest 10,000.”."""
        return self._words(number) % {"count": shown, "searched": formatting.count(self.looked_at)}

    def _words(self, number: int) -> str:
        if self.is_all:
            return ngettext("%(count)s task matches.", "%(count)s tasks match.", number)
        if not self.looked_at:
            return ngettext(
                "%(count)s task found in the rest of this list.",
                "%(count)s tasks found in the rest of this list.",
                number,
            )
        if self.is_further:
            return ngettext(
                "%(count)s task found among the next %(searched)s of this list.",
                "%(count)s tasks found among the next %(searched)s of this list.",
                number,
            )
        if self.by_id:
            return ngettext(
                "%(count)s task found among the newest %(searched)s.",
                "%(count)s tasks found among the newest %(searched)s.",
                number,
            )
        return ngettext(
            "%(count)s task found among the first %(searched)s of this list.",
            "%(count)s tasks found among the first %(searched)s of this list.",
            number,
        )


def empty_text(selection: Selection, extent: Extent) -> str:
    """Return the text of an empty list. It says so if some tasks were not searched."""
    if not extent.is_all:
        return _("Not found in the tasks that were searched. The others were not looked at.")
    if "error" in selection.data:
        return _("Not found. Only the errors of this period and of this status were searched.")
    if _is_filtered_status(selection):
        return _("No task of this status matches. Other statuses were not searched.")
    return _("No task matches.")


def _is_filtered_status(selection: Selection) -> bool:
    return selection.status is not None and len(selection.data) > 1


def offers(selection: Selection, older: str, extent: Extent, *, is_empty: bool) -> list[Offer]:
    """Return links to what was not searched."""
    found = []
    if extent.looked_at and older:
        query = f"{selection.query()}&after={quote(older, safe='')}"
        found.append(Offer(_("Continue searching →"), query))
    if is_empty and "error" in selection.data:
        found += _other_errors(selection)
    elif is_empty and _is_filtered_status(selection):
        query = selection.query(status=None)
        found.append(Offer(_("Search tasks of any status →"), query))
    return found


def _other_errors(selection: Selection) -> list[Offer]:
    since, now = selection.cleaned["since"], timezone.now()
    found = [
        Offer(str(label), selection.query(since=text))
        for period, text, label in _PERIODS
        if _utc(since) > now - period + timedelta(minutes=1)
    ]
    if selection.status == Status.FAILED:
        query = selection.query(status=Status.SCHEDULED.value)
        return [*found, Offer(_("Search scheduled tasks →"), query)]
    query = selection.query(status=Status.FAILED.value)
    return [*found, Offer(_("Search failed tasks →"), query)]


def _utc(when: datetime) -> Any:
    return when if timezone.is_aware(when) else timezone.make_aware(when)
