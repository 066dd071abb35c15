"""A parsed filter. It describes itself in words, and an invalid filter is an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.core.exceptions import ValidationError
from django.core.validators import EMPTY_VALUES
from django.http import QueryDict
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from bgtask.models import Task, TaskQuerySet
from bgtask.models.arguments import Argument
from bgtask.redaction import MASK
from bgtask.status import Status
from bgtask_admin.permissions import VIEW_ARGUMENTS, VIEW_TRACEBACK, Details
from bgtask_admin.tasks.argument_search import MAX_ROWS, Found, having, search_newest
from bgtask_admin.tasks.filters import NAMES, TIMES, TaskFilter
from bgtask_admin.tasks.search import parse_search


class InvalidSelection(ValidationError):
    """The filter is empty, unknown or invalid, so no action may use it."""


@dataclass(frozen=True)
class Selection:
    """A filter. ``data`` is plain text with absolute times, so it means the same tomorrow."""

    data: Mapping[str, str]
    cleaned: Mapping[str, Any]

    @classmethod
    def parse(
        cls, query: QueryDict | Mapping[str, Any], *, ignore: Iterable[str] = ()
    ) -> Selection:
        """
        Parse a query string. An empty query selects everything, which is allowed for viewing.

        Raise InvalidSelection if a key is unknown or given twice, or if a value is invalid.
        django-filter would drop such filters, and then show or change every task.
        """
        data: dict[str, str] = {}
        for key in query:
            values = query.getlist(key) if isinstance(query, QueryDict) else [query[key]]
            if key in ignore:
                continue
            if key not in TaskFilter.base_filters and key != "q":
                raise InvalidSelection(_("There is no filter “%s”.") % key[:50])
            # Names are compared exactly, so they keep their blanks at both ends.
            texts = [str(value) if key in NAMES else str(value).strip() for value in values]
            given = [text for text in texts if text.strip()]
            if len(given) > 1:
                raise InvalidSelection(_("The filter “%s” is given twice.") % key)
            if given:
                data[key] = given[0]
        if search := data.pop("q", ""):
            try:
                searched = parse_search(search)
            except ValidationError as error:
                raise InvalidSelection(error.messages) from None
            # The text that the user typed last overrides the filters of a tab or a link.
            data |= searched
        form = TaskFilter(data, queryset=Task.objects.none()).form
        if not form.is_valid():
            raise InvalidSelection(
                [
                    message
                    if field == "__all__"
                    else _("%(field)s: %(problem)s")
                    % {"field": form.fields[field].label, "problem": message}
                    for field, messages in form.errors.items()
                    for message in messages
                ]
            )
        cleaned = {key: form.cleaned_data[key] for key in data}
        if lost := [key for key, value in cleaned.items() if value in EMPTY_VALUES]:
            raise InvalidSelection(_("The filter “%s” has no value.") % lost[0])
        absolute = {
            key: cleaned[key].isoformat() if isinstance(cleaned[key], datetime) else value
            for key, value in data.items()
        }
        return cls(absolute, cleaned)

    @classmethod
    def parse_narrow(
        cls, query: QueryDict | Mapping[str, Any], *, ignore: Iterable[str] = ()
    ) -> Selection:
        """Parse a filter for an action: like parse(), but refuse an empty filter too."""
        selection = cls.parse(query, ignore=ignore)
        selection.must_be_narrow()
        return selection

    def must_be_narrow(self) -> None:
        """Raise InvalidSelection if the filter is empty."""
        if not self.data:
            raise InvalidSelection(_("Choose a filter or select tasks first."))

    @property
    def status(self) -> Status | None:
        return Status(self.data["status"]) if "status" in self.data else None

    @property
    def time_column(self) -> str | None:
        """Return the column that sorts the list of tasks. None: the id sorts it."""
        return TIMES[self.status] if self.status and self.status != Status.HELD else None

    @property
    def is_chosen_one_by_one(self) -> bool:
        """Return whether the filter names single tasks. A unique key has at most one holder."""
        return not self.data.keys().isdisjoint({"ids", "id", "unique"})

    @property
    def has_argument(self) -> bool:
        return "argument" in self.data

    @property
    def permissions(self) -> tuple[str, ...]:
        """Return the permissions to use this filter. Even a count tells what it searches."""
        needed = {
            "argument": VIEW_ARGUMENTS,
            "unique": VIEW_ARGUMENTS,  # A key may contain arguments.
            "error": VIEW_TRACEBACK,
        }
        return tuple(permission for key, permission in needed.items() if key in self.data)

    @property
    def argument(self) -> Argument | None:
        return self.cleaned["argument"].argument if self.has_argument else None

    def tasks(self) -> TaskQuerySet:
        """Return the tasks that match. For an argument, search only the newest: see ``search``."""
        return self.exactly(self.without("argument").candidates())

    def exactly(self, tasks: TaskQuerySet) -> TaskQuerySet:
        """Return the tasks that have the argument, among the newest of these tasks."""
        return tasks.filter(pk__in=self.search(tasks).ids) if self.argument else tasks

    def search(self, tasks: TaskQuerySet, most_decoded: int = MAX_ROWS) -> Found:
        """Search the newest of these tasks for the argument."""
        return search_newest(self.argument, tasks, most_decoded) if self.argument else Found()

    def having(self, ids: Sequence[int]) -> list[int]:
        """Return the ids of the tasks that have the argument. Without an argument, return all."""
        return having(self.argument, ids) if self.argument else list(ids)

    def candidates(self) -> TaskQuerySet:
        """
        Return the tasks that may match. If the filter has an argument, check it with ``having``.

        Raise InvalidSelection if django-filter would drop a filter.
        """
        filtered = TaskFilter(dict(self.data), queryset=Task.objects.all())
        if not filtered.is_valid():
            raise InvalidSelection(_("This filter is not valid any more."))
        return filtered.qs  # type: ignore[no-any-return]

    def without(self, *keys: str) -> Selection:
        return Selection(
            {key: value for key, value in self.data.items() if key not in keys},
            {key: value for key, value in self.cleaned.items() if key not in keys},
        )

    def only(self, *keys: str) -> Selection:
        return self.without(*(self.data.keys() - set(keys)))

    def masked(self, details: Details) -> Selection:
        """Return a copy to describe to users who may see only these details of tasks."""
        cleaned = dict(self.cleaned)
        if "argument" in cleaned and not details.arguments:
            cleaned["argument"] = replace(cleaned["argument"], text=MASK)
        if "unique" in cleaned and not details.arguments:
            cleaned["unique"] = MASK
        if "error" in cleaned and not details.tracebacks:
            cleaned["error"] = MASK
        return Selection(self.data, cleaned)

    def query(self, **changes: str | None) -> str:
        data = {**self.data, **changes}
        return urlencode({key: value for key, value in data.items() if value})

    def phrases(self) -> list[tuple[str, str]]:
        """Return a pair (key, text) for each filter. Each text stands alone."""
        return [(key, _phrase(key, self.cleaned[key])) for key in _ORDER if key in self.data]

    def in_words(self) -> str:
        """Return a text such as “Failed · queue mail”."""
        return SEPARATOR.join(words for _key, words in self.phrases()) or _("All tasks")


SEPARATOR = " · "
_ORDER = (
    "status", "task", "queue", "error_class", "fingerprint", "error", "attempts_min",
    "attempts_max", "worker", "backend", "unique", "argument", "since", "until", "id", "ids",
)  # fmt: skip


def _phrase(key: str, value: Any) -> str:
    """Return a text for one filter that stands alone."""
    if key == "status":
        return str(Status(value).label)
    if key == "task":
        return str(value)
    if key == "ids":
        number = len(value)
        return ngettext("%s selected task", "%s selected tasks", number) % f"{number:,}"
    if key == "attempts_min":
        return ngettext("at least %s attempt", "at least %s attempts", value) % f"{value:,}"
    if key == "attempts_max":
        return ngettext("at most %s attempt", "at most %s attempts", value) % f"{value:,}"
    if key == "argument":
        return _("argument %(name)s = %(value)s") % {"name": value.name, "value": value.text}
    if isinstance(value, datetime):
        local = timezone.localtime(value) if timezone.is_aware(value) else value
        value = date_format(local, "Y-m-d H:i:s")
    return str(_patterns()[key] % value)


def _patterns() -> dict[str, str]:
    return {
        "queue": _("queue %s"),
        "error_class": _("error %s"),
        "fingerprint": _("error group %s"),
        "error": _("error text “%s”"),
        "worker": _("last run by %s"),
        "backend": _("backend %s"),
        "unique": _("unique key %s"),
        "since": _("since %s"),
        "until": _("until %s"),
        "id": _("task #%s"),
    }
