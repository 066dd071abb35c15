"""Decide what happens at the slots of a schedule that are due. This reads and writes nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from bgtask.models.schedule import Decision, Misfire
from bgtask.schedules.timetable import Timetable

MAX_COUNTED = 1_000  # Missed slots are counted up to here. One more means “more than that”.
MAX_SLOTS = 100  # Slots that one turn decides if each gets a task.


@dataclass(frozen=True)
class Decided:
    """A decision about a slot. ``missed`` is the number of earlier slots that get no task."""

    slot: datetime
    decision: Decision
    missed: int = 0


@dataclass(frozen=True)
class Plan:
    """What to do about the slots that are due, and the first slot that is not yet decided."""

    decided: tuple[Decided, ...]
    next_at: datetime | None


def plan(
    timetable: Timetable, misfire: str, grace: float, next_at: datetime, now: datetime
) -> Plan:
    """Return what to do now about the slots from ``next_at`` on, by the schedule's ``misfire``."""
    match misfire:
        case Misfire.ALL:
            return _each(timetable, next_at, now, [])
        case Misfire.NONE:
            return _without_late(timetable, grace, next_at, now)
        case _:
            return _newest(timetable, next_at, now)


def _newest(timetable: Timetable, next_at: datetime, now: datetime) -> Plan:
    """Run the newest slot, which stands for the earlier ones."""
    newest = max(timetable.upto(now) or next_at, next_at)
    # As many slots as there are after next_at, since the newest is not missed, and next_at is.
    missed = timetable.count(next_at, newest, MAX_COUNTED + 1)
    decided = Decided(newest, Decision.ENQUEUED, missed)
    return Plan((decided,), timetable.after(max(now, newest)))


def _without_late(timetable: Timetable, grace: float, next_at: datetime, now: datetime) -> Plan:
    """Run the slots that are at most ``grace`` seconds old. One decision stands for the others."""
    limit = now - timedelta(seconds=grace)
    if next_at >= limit:
        return _each(timetable, next_at, now, [])
    newest = max(timetable.upto(limit - timedelta(microseconds=1)) or next_at, next_at)
    number = 1 + timetable.count(next_at, newest, MAX_COUNTED)
    missed = Decided(newest, Decision.MISSED, number)
    following = timetable.after(newest)
    if following is None or following > now:
        return Plan((missed,), following)
    return _each(timetable, following, now, [missed])


def _each(timetable: Timetable, first: datetime, now: datetime, before: list[Decided]) -> Plan:
    """Run each slot from ``first`` until now, so many at a time."""
    decided = list(before)
    slot: datetime | None = first
    while slot is not None and slot <= now and len(decided) < MAX_SLOTS:
        decided.append(Decided(slot, Decision.ENQUEUED))
        slot = timetable.after(slot)
    return Plan(tuple(decided), slot)


def delayed(key: str, slot: datetime, jitter: int) -> datetime:
    """
    Return when the task of a slot runs: up to ``jitter`` seconds after the slot.

    The delay is a hash of the schedule's key and the slot, so that each process finds the same.
    """
    if not jitter:
        return slot
    digest = hashlib.sha256(f"{key} {slot.isoformat()}".encode()).digest()
    milliseconds = int.from_bytes(digest[:8], "big") % (jitter * 1_000)
    return slot + timedelta(milliseconds=milliseconds)
