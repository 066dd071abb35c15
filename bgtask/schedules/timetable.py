"""
Reckon the slots of a schedule: the points in time for which it enqueues a task.

Cron expressions mean what they mean to Debian's cron. A fixed time that the clocks skip comes right
after the gap, and one that comes twice counts once, the first time. If the field of the minute or
the hour begins with a wildcard, the expression follows elapsed time: what the clocks skip is left
out, and what comes twice counts twice.

cronsim reads the expressions and tells which days match. Its own walk through the day is not used,
because it misses slots where clocks change by half an hour (Lord Howe), and finds wrong ones where
they change at midnight (Cairo).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import count, islice
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from django.utils.timezone import get_default_timezone

from bgtask.exceptions import InvalidOption
from bgtask.models.schedule import Kind
from bgtask.values import brief

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}
MAX_YEARS = 5  # A schedule without a slot in so many years is a mistake.
MIN_EVERY_SECONDS = 1.0
MAX_YEARS_WITHOUT = 30  # How far to look for a slot. Leap days on a Sunday are 28 years apart.
ONE_DAY = timedelta(days=1)
# Intervals count from here if a schedule has no start, so that every process finds the same slots.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Timetable:
    """
    When a schedule has its slots. All times are aware.

    ``expression`` is a cron expression with five fields, a number of seconds, or a time in ISO
    8601, as ``kind`` says.
    """

    kind: str
    expression: str
    zone: tzinfo
    start: datetime | None = None
    end: datetime | None = None

    def after(self, moment: datetime) -> datetime | None:
        """Return the first slot after this moment, in UTC, or None if there is none."""
        return next(self.slots(moment), None)

    def upto(self, moment: datetime) -> datetime | None:
        """Return the last slot that is not after this moment, in UTC, or None."""
        if self.end is not None and moment > self.end:
            moment = self.end
        slot = self._upto(moment.astimezone(UTC))
        if slot is None or (self.start is not None and slot < self.start):
            return None
        return slot

    def slots(self, after: datetime, until: datetime | None = None) -> Iterator[datetime]:
        """Yield the slots after one moment and until another, in UTC."""
        if self.start is not None and after < self.start:
            after = self.start - timedelta(microseconds=1)
        ends = [end for end in (self.end, until) if end is not None]
        for slot in self._slots(after.astimezone(UTC)):
            if ends and slot > min(ends):
                return
            yield slot

    def count(self, after: datetime, until: datetime, most: int) -> int:
        """Return how many slots there are after one moment and until another, at most ``most``."""
        return sum(1 for _ in islice(self.slots(after, until), most))

    def _slots(self, moment: datetime) -> Iterator[datetime]:
        if self.kind == Kind.AT:
            at = datetime.fromisoformat(self.expression).astimezone(UTC)
            yield from [at] if at > moment else []
        elif self.kind == Kind.EVERY:
            yield from map(self._nth, count(self._number(moment) + 1))
        else:
            cron = _parsed(self.expression)
            day = moment.astimezone(self.zone).date() - ONE_DAY  # Slots after a gap may be later.
            end = day + timedelta(days=366 * MAX_YEARS_WITHOUT)
            while day < end:
                if day.month not in cron.months:
                    day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
                    continue
                if cron.match_day(day):
                    for slot in _slots_of_day(cron, day, self.zone):
                        if slot > moment:
                            moment = slot
                            end = day + timedelta(days=366 * MAX_YEARS_WITHOUT)
                            yield slot
                day += ONE_DAY

    def _upto(self, moment: datetime) -> datetime | None:
        if self.kind == Kind.AT:
            at = datetime.fromisoformat(self.expression)
            return at.astimezone(UTC) if at <= moment else None
        if self.kind == Kind.EVERY:
            return self._nth(self._number(moment))
        cron = _parsed(self.expression)
        day = moment.astimezone(self.zone).date() + ONE_DAY
        end = day - timedelta(days=366 * MAX_YEARS_WITHOUT)
        while day > end:
            if day.month not in cron.months:
                day = day.replace(day=1) - ONE_DAY
                continue
            if cron.match_day(day):
                slots = [one for one in _slots_of_day(cron, day, self.zone) if one <= moment]
                if slots:
                    return max(slots)
            day -= ONE_DAY
        return None

    @property
    def _seconds(self) -> float:
        return float(self.expression)

    @property
    def _anchor(self) -> datetime:
        return EPOCH if self.start is None else self.start.astimezone(UTC)

    def _number(self, moment: datetime) -> int:
        """Return the number of the last interval that has begun at this moment."""
        number = math.floor((moment - self._anchor).total_seconds() / self._seconds)
        # A float has 53 bits, so correct the number by the times themselves.
        while self._nth(number) > moment:
            number -= 1
        while self._nth(number + 1) <= moment:
            number += 1
        return number

    def _nth(self, number: int) -> datetime:
        return self._anchor + timedelta(seconds=self._seconds * number)


@dataclass(frozen=True)
class Note:
    """A fixed local time that the clocks skip or show twice on a day. ``instead`` is local too."""

    local: datetime
    instead: datetime
    is_skipped: bool


def notes(timetable: Timetable, now: datetime, days: int = 366) -> list[Note]:
    """Return what the changes of the clocks do to the fixed times of a cron expression."""
    if timetable.kind != Kind.CRON:
        return []
    cron = _parsed(timetable.expression)
    if _follows_elapsed_time(cron):
        return []
    zone = timetable.zone
    found = []
    first = now.astimezone(zone).date()
    for day in (first + timedelta(days=number) for number in range(days)):
        midnight = datetime(day.year, day.month, day.day)
        if _offset(midnight, zone) == _offset(midnight + ONE_DAY, zone):
            continue
        if day.month not in cron.months or not cron.match_day(day):
            continue
        for hour in sorted(cron.hours):
            for minute in sorted(cron.minutes):
                local = midnight.replace(hour=hour, minute=minute)
                real = _real_moments(local, zone)
                if len(real) != 1:
                    instead = min(real) if real else _end_of_gap(local, zone)
                    shown = instead.astimezone(zone).replace(tzinfo=None)
                    found.append(Note(local, shown, not real))
    return found


@lru_cache(maxsize=1_000)
def _parsed(expression: str) -> CronSim:
    return CronSim(expression, EPOCH)


def _slots_of_day(cron: CronSim, day: date, zone: tzinfo) -> Iterator[datetime]:
    """Yield the slots of a local day that matches, in UTC and in order."""
    times = ((hour, minute) for hour in sorted(cron.hours) for minute in sorted(cron.minutes))
    midnight = datetime(day.year, day.month, day.day)
    offset = _offset(midnight, zone)
    if offset == _offset(midnight + ONE_DAY, zone):
        start = (midnight - offset).replace(tzinfo=UTC)
        for hour, minute in times:
            yield start + timedelta(hours=hour, minutes=minute)
        return
    follows_elapsed_time = cron.parts[1].startswith("*") or cron.parts[2].startswith("*")
    found: set[datetime] = set()
    for hour, minute in times:
        local = midnight.replace(hour=hour, minute=minute)
        moments = [local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
        # In a gap, neither of the two moments shows this time on the clocks.
        real = [
            one for one in moments if one.astimezone(zone).replace(tzinfo=None, fold=0) == local
        ]
        if follows_elapsed_time:
            found.update(real)
        elif real:
            found.add(min(real))
        else:
            found.add(_end_of_gap(local, zone))
    yield from sorted(found)


def _follows_elapsed_time(cron: CronSim) -> bool:
    return bool(cron.parts[1].startswith("*") or cron.parts[2].startswith("*"))


def _real_moments(local: datetime, zone: tzinfo) -> set[datetime]:
    """Return the moments at which the clocks show this local time: two, one, or none in a gap."""
    moments = [local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
    return {one for one in moments if one.astimezone(zone).replace(tzinfo=None) == local}


def _offset(local: datetime, zone: tzinfo) -> timedelta:
    return local.replace(tzinfo=zone).utcoffset() or timedelta()


def _end_of_gap(local: datetime, zone: tzinfo) -> datetime:
    """Return the moment after the gap in which this local time is, in UTC."""
    # With fold=0, the time is reckoned by the offset before the gap, so it is after the change.
    after = local.replace(tzinfo=zone).astimezone(UTC)
    before = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    offset = before.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) / 2
        if middle.astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after.replace(microsecond=0)


def check_cron(value: str) -> str:
    """Return the expression with five fields. Raise InvalidOption if it is none."""
    expression = ALIASES.get(value.strip().lower(), " ".join(value.split()))
    if (number := len(expression.split())) != 5:
        hint = " Seconds are not supported." if number == 6 else ""
        raise InvalidOption(
            f"cron={brief(value)} has {number} fields. A cron expression has five: minute, hour, "
            f"day of month, month, day of week.{hint} Or use one of {', '.join(ALIASES)}."
        )
    try:
        CronSim(expression, EPOCH)
    except CronSimError as error:
        raise InvalidOption(f"cron={brief(value)}: {error}.") from None
    return expression


def check_zone(name: str) -> tzinfo:
    """Return the time zone. An empty name is TIME_ZONE. Raise InvalidOption if it is unknown."""
    if not name:
        return get_default_timezone()
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        near = difflib.get_close_matches(name, available_timezones(), n=3, cutoff=0.5)
        near = near or [one for one in sorted(available_timezones()) if one.endswith(name)][:3]
        remedy = f" Did you mean {' or '.join(near)}?" if near else " Use a name of the IANA."
        raise InvalidOption(f"time_zone={brief(name)} is unknown.{remedy}") from None


def check_ever_fires(kind: str, expression: str, now: datetime | None = None) -> None:
    """Raise InvalidOption for a cron expression that matches no day in the next years."""
    if kind != Kind.CRON:
        return
    now = datetime.now(UTC) if now is None else now
    slot = Timetable(kind, expression, UTC).after(now)
    if slot is None or slot > now + timedelta(days=366 * MAX_YEARS):
        raise InvalidOption(f"cron={brief(expression)} has no slot within {MAX_YEARS} years.")


def check_has_slots(timetable: Timetable, now: datetime) -> None:
    """Raise InvalidOption if there is no slot from now on."""
    check_ever_fires(timetable.kind, timetable.expression, now)
    if timetable.after(now) is None:
        end = (
            "" if timetable.end is None else f" before its end, {timetable.end:%Y-%m-%d %H:%M} UTC"
        )
        raise InvalidOption(
            f"{timetable.kind}={brief(timetable.expression)} has no slot from now on{end}."
        )
