"""Parse times and ids from links and from people. Invalid text gives None, never an error."""

from __future__ import annotations

from datetime import datetime

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


def in_zone(moment: datetime) -> datetime:
    if settings.USE_TZ:
        return timezone.make_aware(moment) if timezone.is_naive(moment) else moment
    return moment if timezone.is_naive(moment) else timezone.make_naive(moment)


def id_of(text: str) -> int | None:
    # int() would also accept digits outside ASCII. A longer number fits into no column.
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
