"""Times and ids as links and people write them: what is none is None, whatever it is."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

# No database keeps other years, whatever the zone they are written in.
YEARS = range(1000, 9999)
# No column is compared with one end of a range alone: MariaDB would not see the range.
FIRST, LAST = datetime(1970, 1, 2), datetime(9999, 1, 1)


def moment_of(text: str) -> datetime | None:
    """A date and time as in ISO 8601, as columns are compared with it."""
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
    # Python would read other digits too, and a longer one fits into no column.
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
