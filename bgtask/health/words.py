"""Numbers as people read them."""

from __future__ import annotations

from datetime import datetime

from django.utils import timezone
from django.utils.formats import date_format

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def duration(seconds: float) -> str:
    """Return ``6 m 52 s``."""
    return " ".join(f"{number} {unit}" for number, unit in duration_parts(seconds))


def duration_parts(seconds: float) -> list[tuple[int, str]]:
    """Return the two greatest units with their numbers: ``[(6, "m"), (52, "s")]``."""
    whole = max(round(seconds), 0)
    numbers = []
    for unit, size in _UNITS:
        number, whole = divmod(whole, size)
        numbers.append((number, unit))
    while len(numbers) > 1 and not numbers[0][0]:
        numbers.pop(0)
    greatest, *rest = numbers[:2]
    return [greatest, *(part for part in rest if part[0])]


def moment(when: datetime, now: datetime) -> str:
    """``11:57``, with the day in front if it is another one; in the current time zone."""
    if timezone.is_aware(when):
        when, now = timezone.localtime(when), timezone.localtime(now)
    return date_format(when, "H:i" if when.date() == now.date() else "Y-m-d H:i")


def percent(ratio: float) -> str:
    return f"{percent_number(ratio)} %"


def percent_number(ratio: float) -> str:
    """Return the number alone; a part of one per cent keeps its first digit."""
    share = ratio * 100
    return f"{share:.0f}" if share >= 1 or not share else f"{share:.1g}"
