"""
Compute the slots of a cron expression from the tables of zoneinfo, without cronsim.

The rules are those of Debian's cron, as ``man 8 cron`` and ``man 5 crontab`` describe them.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
ONE_MINUTE = timedelta(minutes=1)

Parts = tuple[date, int, int]
Minute = tuple[datetime, list[Parts], list[Parts]]


def slots_of(expression: str, zone: ZoneInfo, first: date, last: date) -> list[datetime]:
    """Return the slots on these local days, in UTC and in order."""
    minute, hour, day, month, weekday = expression.lower().split()
    minutes, hours = values(minute, 0, 59), values(hour, 0, 23)
    days, months = values(day, 1, 31), values(month, 1, 12, MONTHS, 1)
    weekdays = {number % 7 for number in values(weekday, 0, 7, DAYS, 0)}
    both = day.startswith("*") or weekday.startswith("*")

    def is_wanted(one: date) -> bool:
        by_day, by_weekday = one.day in days, one.isoweekday() % 7 in weekdays
        return one.month in months and ((by_day and by_weekday) if both else (by_day or by_weekday))

    by_elapsed_time = minute.startswith("*") or hour.startswith("*")
    wanted = {one for one in _days(first, last) if is_wanted(one)}
    return [
        moment
        for moment, shown, skipped in _minutes(zone, first, last)
        if any(
            h in hours and m in minutes and one in wanted
            for one, h, m in (shown if by_elapsed_time else skipped)
        )
    ]


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


@lru_cache(maxsize=2)
def _minutes(zone: ZoneInfo, first: date, last: date) -> list[Minute]:
    """
    Return each minute that passes on these days: the moment, and what the clocks show.

    The third value is what they show for the first time, and before that what they have skipped.
    """
    start, end = (
        datetime.combine(day, time()).replace(tzinfo=zone).astimezone(UTC)
        for day in (first, last + timedelta(days=1))
    )
    found: list[Minute] = []
    shown: set[datetime] = set()
    moment, previous = start, (start - ONE_MINUTE).astimezone(zone).replace(tzinfo=None)
    while moment < end:
        local = moment.astimezone(zone).replace(tzinfo=None)
        times = []
        skipped = previous + ONE_MINUTE
        while skipped < local:
            times.append(skipped)
            skipped += ONE_MINUTE
        if local not in shown:
            times.append(local)
        shown.update(times)
        found.append((moment, [_parts(local)], [_parts(one) for one in times]))
        previous = local
        moment += ONE_MINUTE
    return found


def _parts(local: datetime) -> Parts:
    return local.date(), local.hour, local.minute


def values(
    field: str, least: int, most: int, names: tuple[str, ...] = (), first: int = 0
) -> set[int]:
    """Return the numbers that a field of a cron expression allows."""

    def number(text: str) -> int:
        return names.index(text) + first if text in names else int(text)

    allowed: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        if span == "*":
            low, high = least, most
        elif "-" in span:
            low, high = map(number, span.split("-"))
        else:
            low = number(span)
            high = most if step else low
        allowed.update(range(low, high + 1, int(step or 1)))
    return allowed


def changes(zone: ZoneInfo, year: int) -> list[date]:
    """Return the local days of this year on which the clocks change."""
    days = []
    day = date(year, 1, 1)
    while day.year == year:
        before, after = (
            datetime.combine(one, time()).replace(tzinfo=zone).utcoffset()
            for one in (day, day + timedelta(days=1))
        )
        if before != after:
            days.append(day)
        day += timedelta(days=1)
    return days
