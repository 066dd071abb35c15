"""The form of a schedule. The rules are those of ``bgtask.schedules``, and so are their errors."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from bgtask.exceptions import InvalidOption
from bgtask.models import Schedule
from bgtask.models.schedule import Kind, Misfire, Overlap
from bgtask.schedules import edit
from bgtask.schedules.declarations import check_key
from bgtask.schedules.definition import Definition, as_stored, check_definition, now_in_utc
from bgtask.schedules.timetable import check_has_slots

_DURATION = re.compile(r"\A\s*(\d+(?:\.\d+)?)\s*([smhdw]?)\s*\Z")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class IntervalField(forms.Field):
    """A duration such as ``90``, ``5m``, ``1.5h``, ``2d`` or ``1w``, in seconds."""

    def to_python(self, value: Any) -> Any:
        if not (text := str(value or "").strip()):
            return None
        match = _DURATION.match(text)
        if match is None:
            raise ValidationError(
                _("“%(value)s” is not a duration. Use 90, 5m, 1.5h, 2d or 1w."),
                params={"value": text[:50]},
            )
        return float(match[1]) * _SECONDS[match[2]]


class MomentField(forms.DateTimeField):
    widget = forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M:%S")


class ScheduleForm(forms.Form):
    key = forms.CharField(
        label=gettext_lazy("Key"),
        max_length=255,
        help_text=gettext_lazy("A name of your choice, such as reports.weekly."),
    )
    task_name = forms.CharField(
        label=gettext_lazy("Task"),
        max_length=255,
        widget=forms.TextInput(attrs={"list": "task-names"}),
    )
    args = forms.CharField(
        label=gettext_lazy("Positional arguments"),
        required=False,
        initial="[]",
        widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false"}),
        help_text=gettext_lazy("A list in JSON."),
    )
    kwargs = forms.CharField(
        label=gettext_lazy("Keyword arguments"),
        required=False,
        initial="{}",
        widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false"}),
        help_text=gettext_lazy("An object in JSON."),
    )
    kind = forms.ChoiceField(label=gettext_lazy("When"), choices=Kind.choices, initial=Kind.CRON)
    cron = forms.CharField(
        label=gettext_lazy("Cron expression"),
        required=False,
        max_length=255,
        help_text=gettext_lazy(
            "Minute, hour, day of month, month, day of week. Or @hourly, @daily, @weekly, "
            "@monthly, @yearly."
        ),
    )
    time_zone = forms.CharField(
        label=gettext_lazy("Time zone"),
        required=False,
        max_length=64,
        widget=forms.TextInput(attrs={"list": "time-zones"}),
        help_text=gettext_lazy("Of the cron expression. Leave blank for TIME_ZONE."),
    )
    every = IntervalField(
        label=gettext_lazy("Interval"),
        required=False,
        help_text=gettext_lazy("For example 90 (seconds), 5m, 2h, 1d. Counted from the start."),
    )
    at = MomentField(label=gettext_lazy("Time"), required=False)
    start = MomentField(label=gettext_lazy("Start"), required=False)
    end = MomentField(label=gettext_lazy("End"), required=False)
    jitter = forms.IntegerField(
        label=gettext_lazy("Jitter (seconds)"),
        required=False,
        min_value=0,
        max_value=86_400,
        help_text=gettext_lazy("A task may run up to so many seconds after its slot."),
    )
    misfire = forms.ChoiceField(
        label=gettext_lazy("Missed slots"), choices=Misfire.choices, initial=Misfire.ONE
    )
    grace = forms.IntegerField(
        label=gettext_lazy("Grace (seconds)"),
        required=False,
        min_value=0,
        max_value=604_800,
        help_text=gettext_lazy("A slot counts as missed after that. 60 by default."),
    )
    overlap = forms.ChoiceField(
        label=gettext_lazy("If the last task is not finished"),
        choices=Overlap.choices,
        initial=Overlap.SKIP,
    )
    queue = forms.CharField(
        label=gettext_lazy("Queue"),
        required=False,
        max_length=100,
        help_text=gettext_lazy("Leave blank for that of the task."),
    )
    priority = forms.IntegerField(
        label=gettext_lazy("Priority"),
        required=False,
        min_value=-2_147_483_648,
        max_value=2_147_483_647,
        help_text=gettext_lazy("Higher first. Leave blank for that of the task."),
    )
    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        required=False,
        max_length=500,
        help_text=gettext_lazy("Shown in the operations log."),
    )

    def __init__(self, *args: Any, is_new: bool, hides_arguments: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if not is_new:
            del self.fields["key"], self.fields["task_name"]
        self._task_name = kwargs.get("initial", {}).get("task_name", "")
        self._params = kwargs.get("initial", {}).get("task_params", "[[], {}]")
        if hides_arguments:
            del self.fields["args"], self.fields["kwargs"]

    def clean_key(self) -> str:
        try:
            return check_key(self.cleaned_data["key"])
        except InvalidOption as error:
            raise ValidationError(str(error)) from None

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        if not self.errors:
            try:
                self.definition = self._definition(data)
                check_has_slots(self.definition.timetable, now_in_utc())
            except InvalidOption as error:
                raise ValidationError(str(error)) from None
        return data

    def _definition(self, data: dict[str, Any]) -> Definition:
        kind = data["kind"]
        name = data.get("task_name", self._task_name)
        if data.get(kind) in (None, ""):
            raise InvalidOption(
                _("Fill in “%(field)s”, because “%(kind)s” is chosen.")
                % {"field": self.fields[kind].label, "kind": Kind(kind).label}
            )
        params = self._params
        if "args" in self.fields:
            params = edit.checked_params(
                name, _json(data["args"], "[]", _("Positional arguments")),
                _json(data["kwargs"], "{}", _("Keyword arguments")),
            )  # fmt: skip
        return check_definition(
            name,
            params,
            time_zone=data["time_zone"] if kind == Kind.CRON else None,
            start=data["start"],
            end=data["end"],
            jitter=data["jitter"],
            misfire=data["misfire"],
            grace=data["grace"],
            overlap=data["overlap"],
            queue=data["queue"] or None,
            priority=data["priority"],
            **{kind: data[kind]},
        )


def _json(text: str, empty: str, label: str) -> Any:
    try:
        return json.loads(text.strip() or empty)
    except (ValueError, RecursionError):
        raise InvalidOption(_("“%s” is not valid JSON.") % label) from None


def initial_of(schedule: Schedule) -> dict[str, Any]:
    """Return the values of the form for a stored schedule."""
    definition = Definition.of(schedule)
    values: dict[str, Any] = {
        "task_name": schedule.task_name,
        "task_params": schedule.task_params,
        "kind": schedule.kind,
        "time_zone": schedule.time_zone,
        "start": _local(definition.start_at),
        "end": _local(definition.end_at),
        "jitter": schedule.jitter or None,
        "misfire": schedule.misfire,
        "grace": schedule.grace,
        "overlap": schedule.overlap,
        "queue": schedule.queue or "",
        "priority": schedule.priority,
    }
    expression = schedule.expression
    try:
        values[schedule.kind] = _local(expression) if schedule.kind == Kind.AT else expression
    except ValueError:  # The row was edited by hand.
        values[schedule.kind] = None
    try:
        args, kwargs = json.loads(schedule.task_params)
        values["args"] = json.dumps(args, ensure_ascii=False)
        values["kwargs"] = json.dumps(kwargs, ensure_ascii=False)
    except (TypeError, ValueError):  # Likewise.
        values["args"], values["kwargs"] = "[]", "{}"
    return values


def _local(text: str | None) -> datetime | None:
    """Return a time in the reader's zone, as the form's fields show it."""
    if not text:
        return None
    moment = as_stored(datetime.fromisoformat(text))
    return timezone.localtime(moment) if moment and timezone.is_aware(moment) else moment
