"""
Compute the slots of a schedule: the points in time for which it enqueues a task.

``cron`` computes those of a cron expression on one day.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import count, islice
from zoneinfo import ZoneInfo, available_timezones

from django.utils.timezone import get_default_timezone

from bgtask.conf import MAX_DURATION_SECONDS
from bgtask.exceptions import InvalidOption
from bgtask.models.schedule import Kind
from bgtask.schedules.cron import ONE_DAY, parsed, slots_of_day
from bgtask.values import brief

MAX_YEARS = 5  # A schedule without a slot in so many years is a mistake.
MIN_EVERY_SECONDS = 1.0
MAX_YEARS_WITHOUT = 30  # How far to look for a slot. Leap days on a Sunday are 28 years apart.
# Intervals count from here if a schedule has no start, so that every process finds the same slots.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Timetable:
    """
    When a schedule has its slots. All times are aware.

    ``expression`` is a cron expression with five fields, a number of seconds, or a time in ISO
    8601, as ``kind`` says. Raise InvalidOption if it is not, as in a row that was edited by hand.
    """

    kind: str
    expression: str
    zone: tzinfo
    start: datetime | None = None
    end: datetime | None = None

    def __post_init__(self) -> None:
        match self.kind:
            case Kind.CRON:
                parsed(self.expression)
            case Kind.EVERY:
                _interval(self.expression)
            case Kind.AT:
                _time(self.expression)
            case _:
                raise InvalidOption(f"kind={brief(self.kind)} is unknown.")

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
        if self.kind != Kind.EVERY:
            return sum(1 for _ in islice(self.slots(after, until), most))
        if self.start is not None and after < self.start:
            after = self.start - timedelta(microseconds=1)
        if self.end is not None and until > self.end:
            until = self.end
        number = self._number(until.astimezone(UTC)) - self._number(after.astimezone(UTC))
        return min(max(number, 0), most)

    def _slots(self, moment: datetime) -> Iterator[datetime]:
        if self.kind == Kind.AT:
            at = _time(self.expression)
            yield from [at] if at > moment else []
        elif self.kind == Kind.EVERY:
            yield from map(self._nth, count(self._number(moment) + 1))
        else:
            cron = parsed(self.expression)
            day = moment.astimezone(self.zone).date() - ONE_DAY  # Slots after a gap may be later.
            end = day + timedelta(days=366 * MAX_YEARS_WITHOUT)
            while day < end:
                if day.month not in cron.months:
                    day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
                    continue
                if cron.match_day(day):
                    for slot in slots_of_day(cron, day, self.zone):
                        if slot > moment:
                            moment = slot
                            end = day + timedelta(days=366 * MAX_YEARS_WITHOUT)
                            yield slot
                day += ONE_DAY

    def _upto(self, moment: datetime) -> datetime | None:
        if self.kind == Kind.AT:
            at = _time(self.expression)
            return at if at <= moment else None
        if self.kind == Kind.EVERY:
            return self._nth(self._number(moment))
        cron = parsed(self.expression)
        day = moment.astimezone(self.zone).date() + ONE_DAY
        end = day - timedelta(days=366 * MAX_YEARS_WITHOUT)
        while day > end:
            if day.month not in cron.months:
                day = day.replace(day=1) - ONE_DAY
                continue
            if cron.match_day(day):
                slots = [one for one in slots_of_day(cron, day, self.zone) if one <= moment]
                if slots:
                    return max(slots)
            day -= ONE_DAY
        return None

    @property
    def _seconds(self) -> float:
        return _interval(self.expression)

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


def _interval(expression: str) -> float:
    try:
        seconds = float(expression)
    except ValueError:
        raise InvalidOption(f"every={brief(expression)} is not a number of seconds.") from None
    return check_interval(seconds)


def _time(expression: str) -> datetime:
    try:
        return datetime.fromisoformat(expression).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidOption(f"at={brief(expression)} is not a time in ISO 8601.") from None


def check_interval(seconds: float) -> float:
    """Return the seconds. Raise InvalidOption if an interval can't be so short or so long."""
    if not MIN_EVERY_SECONDS <= seconds <= MAX_DURATION_SECONDS:
        raise InvalidOption(
            f"every={brief(seconds)} must be at least {MIN_EVERY_SECONDS:g} second, and less than "
            "a hundred years."
        )
    return seconds


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
