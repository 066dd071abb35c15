"""Parse times and ids from links and from people. Invalid text gives None, never an error."""

from __future__ import annotations

from datetime import UTC, datetime

from django.conf import settings
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

# Every database can store these years, in any time zone.
YEARS = range(1000, 9999)
# Bounds for a range with an open end. With one end only, MariaDB doesn't use a range.
FIRST, LAST = datetime(1970, 1, 2), datetime(9999, 1, 1)


def moment_of(text: str) -> datetime | None:
    """Return the time of an ISO 8601 text, ready to compare with a column, or None."""
    try:
        moment = parse_datetime(text)
        if moment is None and (day := parse_date(text)):
            moment = datetime(day.year, day.month, day.day)
    except ValueError:
        return None
    return in_zone(moment) if moment and moment.year in YEARS else None


def readings_of(text: str) -> list[datetime]:
    """
    Return the times that a text without an offset can mean in the current time zone.

    There are none in the hour that is skipped when clocks go forward, and two in the hour that is
    repeated when they go back. A date alone means the time at which the day begins.
    """
    moment = moment_of(text)
    if moment is None:
        return []
    if not settings.USE_TZ or _is_date(text) or _has_offset(text):
        return [moment]
    wall = moment.replace(tzinfo=None)
    readings = [moment.replace(fold=fold).astimezone(UTC) for fold in (0, 1)]
    real = [one for one in readings if timezone.localtime(one).replace(tzinfo=None) == wall]
    return [timezone.localtime(one) for one in sorted(set(real))]


def _is_date(text: str) -> bool:
    try:
        return parse_date(text) is not None
    except ValueError:
        return False


def _has_offset(text: str) -> bool:
    moment = parse_datetime(text)
    return moment is not None and timezone.is_aware(moment)


def in_zone(moment: datetime) -> datetime:
    if settings.USE_TZ:
        return timezone.make_aware(moment) if timezone.is_naive(moment) else moment
    return moment if timezone.is_naive(moment) else timezone.make_naive(moment)


def id_of(text: str) -> int | None:
    # int() would also accept digits outside ASCII. A longer number fits into no column.
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
