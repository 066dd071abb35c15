"""The filters for tasks: the keys of a query string and their meaning."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import django_filters
from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import ProhibitNullCharactersValidator
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from bgtask.db.functions import StatusLiteral
from bgtask.models import Task, TaskQuerySet
from bgtask.models.arguments import Argument
from bgtask.status import FINISHED, Status
from bgtask_admin.tasks.parsing import (
    FIRST,
    LAST,
    YEARS,
    id_of,
    in_zone,
    moment_of,
    readings_of,
)
from bgtask_admin.ui.arguments import masked

MAX_IDS = 1_000
MAX_ARGUMENT_LENGTH = 300

# For each status, the time that sorts the list and that ``since`` and ``until`` compare.
TIMES = {
    Status.READY: "run_at",
    Status.SCHEDULED: "run_at",
    Status.RUNNING: "locked_at",
    Status.HELD: "enqueued_at",
    **dict.fromkeys(FINISHED, "finished_at"),
}

# These filters compare a name exactly. A name may begin or end with blanks.
NAMES = frozenset({"queue", "task", "worker", "error_class", "fingerprint", "unique"})

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_ARGUMENT = re.compile(r"([^:=]+)[:=](.+)\Z", re.DOTALL)
_RELATIVE = re.compile(r"\A(\d{1,6})\s*([smhd])\Z")


class MomentField(forms.Field):
    """A time: ``24h`` for 24 hours ago, or a date and time as in ISO 8601."""

    def to_python(self, value: Any) -> datetime | None:
        if not (text := str(value or "").strip()):
            return None
        if ago := _ago(text):
            return ago
        if moment_of(text) is None:
            raise ValidationError(
                _("“%(value)s” is not a time. Use 24h, 7d or 2026-11-25 14:00."),
                params={"value": text[:50]},
            )
        return _only(readings_of(text), text)


def _only(readings: list[datetime], text: str) -> datetime:
    """Return the only reading of a time. Raise ValidationError where clocks skip or repeat it."""
    params = {"value": text[:50], "zone": timezone.get_current_timezone_name()}
    if not readings:
        raise ValidationError(
            _("Clocks in %(zone)s skip “%(value)s”. Use an earlier or a later time."),
            params=params,
        )
    if len(readings) > 1:
        first, second = (one.isoformat(" ", "minutes") for one in readings)
        raise ValidationError(
            _("“%(value)s” comes twice in %(zone)s. Use %(first)s or %(second)s."),
            params={**params, "first": first, "second": second},
        )
    return readings[0]


def _ago(text: str) -> datetime | None:
    match = _RELATIVE.match(text)
    if match is None:
        return None
    try:
        moment = timezone.now() - timedelta(seconds=int(match[1]) * _UNITS[match[2]])
    except OverflowError:
        return None
    return moment if moment.year in YEARS else None


class IdsField(forms.Field):
    """The ids of ticked tasks, such as ``17,42``."""

    def to_python(self, value: Any) -> list[int] | None:
        if not (text := str(value or "").strip()):
            return None
        ids = [id_of(part.strip()) for part in text.split(",")]
        if None in ids:
            raise ValidationError(
                _("“%(value)s” is not a list of ids. Use 17,42."), params={"value": text[:50]}
            )
        if len(set(ids)) > MAX_IDS:
            raise ValidationError(
                _("At most %(count)d tasks can be selected one by one."), params={"count": MAX_IDS}
            )
        return sorted({one for one in ids if one is not None})


@dataclass(frozen=True)
class WantedArgument:
    """An argument to search for. Its value is JSON if the text is valid JSON, otherwise text."""

    name: str
    text: str

    @property
    def argument(self) -> Argument:
        value = json_value(self.text)
        return Argument(self.name, self.text if value is NO_JSON else value)


NO_JSON = object()


def json_value(text: str) -> Any:
    """Return the value of a JSON text, or NO_JSON if the text is not valid JSON."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return NO_JSON


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    return number if math.isfinite(number := float(text)) else _refuse(text)


class ArgumentField(forms.Field):
    """
    An argument as ``name:value`` or ``name=value``. The first ``:`` or ``=`` ends the name.

    ``code:42`` means the number, and ``code:"42"`` means the text.
    """

    def to_python(self, value: Any) -> WantedArgument | None:
        if not (text := str(value or "").strip()):
            return None
        if len(text) > MAX_ARGUMENT_LENGTH:
            raise ValidationError(
                _("An argument must have at most %(count)d characters."),
                params={"count": MAX_ARGUMENT_LENGTH},
            )
        ProhibitNullCharactersValidator()(text)  # PostgreSQL can't store NUL in the log.
        match = _ARGUMENT.match(text)
        if match is None:
            raise ValidationError(
                _('“%(value)s” is not of the form name:value. The empty text is name:"".'),
                params={"value": text[:50]},
            )
        wanted = WantedArgument(match[1], match[2])
        _check_not_masked(wanted)
        return wanted


def _check_not_masked(wanted: WantedArgument) -> None:
    """
    Raise ValidationError if the pages mask this value.

    Otherwise a user could guess a masked value: the right guess finds the task. The rule looks at
    the search alone. A stored value that is equal to the wanted value is masked as well.
    """
    argument = wanted.argument
    if masked(argument.value, argument.name) != argument.value:
        raise ValidationError(
            _("The value of “%(name)s” is masked, so tasks can’t be searched by it."),
            params={"name": wanted.name[:50]},
        )


class NameFilter(django_filters.CharFilter):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, strip=False, **kwargs)


class WholeNumberFilter(django_filters.Filter):
    field_class = forms.IntegerField


class MomentFilter(django_filters.Filter):
    field_class = MomentField


class IdsFilter(django_filters.Filter):
    field_class = IdsField


class ArgumentFilter(django_filters.Filter):
    field_class = ArgumentField

    def filter(self, queryset: TaskQuerySet, value: WantedArgument | None) -> TaskQuerySet:
        """Leave out tasks that can't have the argument. ``Selection`` checks the others."""
        return queryset.filter(value.argument.candidates()) if value else queryset


def _in_utc(moment: datetime) -> datetime:
    """Return the time in UTC. Python compares two times of one zone without their offsets."""
    return moment.astimezone(UTC) if timezone.is_aware(moment) else moment


class TaskFilterForm(forms.Form):
    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        since, until = data.get("since"), data.get("until")
        if since and until and _in_utc(since) >= _in_utc(until):
            raise ValidationError(_("“Until” must be after “since”."))
        if data.get("error") and not since:
            raise ValidationError(
                _("Error texts are searched only within a period: add since:24h.")
            )
        if data.get("error") and data.get("status") not in (Status.FAILED, Status.SCHEDULED):
            raise ValidationError(
                _("Error texts are searched only in tasks that failed: add status:failed.")
            )
        return data


class TaskFilter(django_filters.FilterSet):
    """
    The filters for tasks. No filter lists values of the table, because that would read all rows.

    Don't use ``qs`` by itself, because it drops invalid filters. Use ``Selection`` instead.
    """

    status = django_filters.ChoiceFilter(
        choices=Status.choices, method="of_status", label=_("Status")
    )
    queue = NameFilter(max_length=100, label=_("Queue"))
    task = NameFilter("task_name", max_length=255, label=_("Task"))
    error_class = NameFilter(max_length=255, label=_("Error class"))
    fingerprint = NameFilter("error_fingerprint", max_length=32, label=_("Error group"))
    error = django_filters.CharFilter(
        "last_error", "icontains", max_length=200, label=_("Error text")
    )
    attempts_min = WholeNumberFilter(
        "attempts", "gte", min_value=0, max_value=2_147_483_647, label=_("Attempts, at least")
    )
    attempts_max = WholeNumberFilter(
        "attempts", "lte", min_value=0, max_value=2_147_483_647, label=_("Attempts, at most")
    )
    worker = NameFilter("last_worker", max_length=255, label=_("Worker"))
    backend = NameFilter(max_length=100, label=_("Backend"))
    unique = NameFilter("unique_key", max_length=255, label=_("Unique key"))
    argument = ArgumentFilter(label=_("Argument (name:value)"))
    since = MomentFilter(method="unfiltered", label=_("Since"))
    until = MomentFilter(method="unfiltered", label=_("Until"))
    id = WholeNumberFilter(min_value=0, max_value=9_223_372_036_854_775_807, label=_("Id"))
    ids = IdsFilter("id", "in", label=_("Ids"))

    class Meta:
        model = Task
        fields: list[str] = []
        form = TaskFilterForm

    def of_status(self, queryset: TaskQuerySet, name: str, value: str) -> TaskQuerySet:
        return queryset.filter(status=StatusLiteral(Status(value)))

    def unfiltered(self, queryset: TaskQuerySet, name: str, value: Any) -> TaskQuerySet:
        return queryset  # filter_queryset() sets both ends together.

    def filter_queryset(self, queryset: TaskQuerySet) -> TaskQuerySet:
        data = self.form.cleaned_data
        queryset = super().filter_queryset(queryset)
        if data.get("since") or data.get("until"):
            column = TIMES.get(data.get("status"), "enqueued_at")
            # Always set both ends. With one end only, MariaDB doesn't use a range.
            queryset = queryset.filter(
                **{
                    f"{column}__gte": data.get("since") or in_zone(FIRST),
                    f"{column}__lte": data.get("until") or in_zone(LAST),
                }
            )
        return queryset
