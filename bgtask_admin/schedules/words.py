"""Describe schedules in words."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from bgtask.models.schedule import Kind
from bgtask.schedules.cron import Note, parsed
from bgtask.schedules.definition import Definition
from bgtask_admin.ui.formatting import whole_duration


def in_words(definition: Definition) -> str:
    """
    Return a text such as “At 09:00 on Monday to Friday (Europe/Berlin)”.

    Raise InvalidOption if the definition is wrong, as in a row that was edited by hand.
    """
    timetable = definition.timetable
    if timetable.kind == Kind.EVERY:
        return _("Every %s") % whole_duration(float(timetable.expression))
    if timetable.kind == Kind.AT:
        return _("Once, at %s") % shown(datetime.fromisoformat(timetable.expression))
    # cronsim describes expressions in English only.
    words = parsed(timetable.expression).explain()
    zone = definition.time_zone
    return f"{words} ({zone})" if zone else words


def shown(moment: datetime, zone: Any = None) -> str:
    """Return a time to the minute, in this zone or in the reader's."""
    local = moment.astimezone(zone or timezone.get_current_timezone())
    return date_format(local, "D Y-m-d H:i")


def note_in_words(note: Note) -> str:
    """Return what happens to a fixed time when the clocks change."""
    day = date_format(note.local, "Y-m-d")
    time = date_format(note.local, "H:i")
    if note.is_skipped:
        return _("%(time)s does not exist on %(day)s: the task runs at %(instead)s.") % {
            "time": time,
            "day": day,
            "instead": date_format(note.instead, "H:i"),
        }
    return _("%(time)s comes twice on %(day)s: the task runs once, the first time.") % {
        "time": time,
        "day": day,
    }
