"""Show what a definition means: in words, its next slots, and what the changes of clocks do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from bgtask.models.schedule import Kind
from bgtask.schedules.cron import notes
from bgtask.schedules.definition import Definition, now_in_utc
from bgtask_admin.schedules.words import in_words, note_in_words, shown

SLOTS = 5
MAX_NOTES = 4


@dataclass(frozen=True)
class NextSlot:
    """A slot in the zone of the schedule, and in that of the reader if it differs."""

    at: datetime
    in_zone: str
    for_reader: str


@dataclass(frozen=True)
class SlotPreview:
    words: str
    slots: list[NextSlot]
    notes: list[str]


def preview(definition: Definition) -> SlotPreview:
    now = now_in_utc()
    timetable = definition.timetable
    slots = [_next(slot, timetable.zone) for slot in islice(timetable.slots(now), SLOTS)]
    found = []
    if timetable.kind == Kind.CRON:
        found = notes(timetable.expression, timetable.zone, now)[:MAX_NOTES]
    return SlotPreview(in_words(definition), slots, [note_in_words(note) for note in found])


def _next(slot: datetime, zone: Any) -> NextSlot:
    in_zone, for_reader = shown(slot, zone), shown(slot)
    return NextSlot(slot, in_zone, "" if in_zone == for_reader else for_reader)
