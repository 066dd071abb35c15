"""
Read cron expressions, and compute their slots on one day.

Cron expressions mean what they mean to Debian's cron. A fixed time that the clocks skip comes right
after the gap, and one that comes twice counts once, the first time. If the field of the minute or
the hour begins with a wildcard, the expression follows elapsed time: what the clocks skip is left
out, and what comes twice counts twice.

cronsim reads the expressions and tells which days match. Its own walk through the day is not used,
because it misses slots where clocks change by half an hour (Lord Howe), and finds wrong ones where
they change at midnight (Cairo).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache

from cronsim import CronSim, CronSimError

from bgtask.exceptions import InvalidOption
from bgtask.values import brief

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}
ONE_DAY = timedelta(days=1)
ANY_TIME = datetime(1970, 1, 1, tzinfo=UTC)  # cronsim asks for one.


def check_cron(value: str) -> str:
    """Return the expression with five fields. Raise InvalidOption if it is none."""
    expression = ALIASES.get(value.strip().lower(), " ".join(value.split()))
    if (number := len(expression.split())) != 5:
        hint = " Seconds are not supported." if number == 6 else ""
        raise InvalidOption(
            f"cron={brief(value)} has {number} fields. A cron expression has five: minute, hour, "
            f"day of month, month, day of week.{hint} Or use one of {', '.join(ALIASES)}."
        )
    parsed(expression)
    return expression


@dataclass(frozen=True)
class Note:
    """A fixed local time that the clocks skip or show twice on a day. ``instead`` is local too."""

    local: datetime
    instead: datetime
    is_skipped: bool


def notes(expression: str, zone: tzinfo, now: datetime, days: int = 366) -> list[Note]:
    """Return what the changes of the clocks do to the fixed times of the expression."""
    cron = parsed(expression)
    if _follows_elapsed_time(cron):
        return []
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
def parsed(expression: str) -> CronSim:
    """Return the expression as cronsim reads it. Raise InvalidOption if it is none."""
    try:
        return CronSim(expression, ANY_TIME)
    except CronSimError as error:
        raise InvalidOption(f"cron={brief(expression)}: {error}.") from None


def slots_of_day(cron: CronSim, day: date, zone: tzinfo) -> Iterator[datetime]:
    """Yield the slots of a local day that matches, in UTC and in order."""
    times = ((hour, minute) for hour in sorted(cron.hours) for minute in sorted(cron.minutes))
    midnight = datetime(day.year, day.month, day.day)
    offset = _offset(midnight, zone)
    if offset == _offset(midnight + ONE_DAY, zone):
        start = (midnight - offset).replace(tzinfo=UTC)
        for hour, minute in times:
            yield start + timedelta(hours=hour, minutes=minute)
        return
    found: set[datetime] = set()
    for hour, minute in times:
        local = midnight.replace(hour=hour, minute=minute)
        real = _real_moments(local, zone)
        if _follows_elapsed_time(cron):
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
    # In a gap, neither of the two is shown as this time.
    moments = [local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
    return {one for one in moments if one.astimezone(zone).replace(tzinfo=None) == local}


def _offset(local: datetime, zone: tzinfo) -> timedelta:
    return local.replace(tzinfo=zone).utcoffset() or timedelta()


def _end_of_gap(local: datetime, zone: tzinfo) -> datetime:
    """Return the moment after the gap in which this local time is, in UTC."""
    # With fold=0, the time is computed by the offset before the gap, so it is after the change.
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
