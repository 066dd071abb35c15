"""Numbers as people read them."""

from __future__ import annotations

from datetime import datetime

from django.utils import timezone
from django.utils.formats import date_format

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def duration(seconds: float) -> str:
    """``6 m 52 s``: the two greatest units, for the rest is noise."""
    whole = max(round(seconds), 0)
    numbers = []
    for unit, size in _UNITS:
        number, whole = divmod(whole, size)
        numbers.append((number, unit))
    while len(numbers) > 1 and not numbers[0][0]:
        numbers.pop(0)
    (most, unit), *rest = numbers[:2]
    return " ".join([f"{most} {unit}", *(f"{number} {unit}" for number, unit in rest if number)])


def moment(when: datetime, now: datetime) -> str:
    """``11:57``, with the day in front if it is another one; in the current time zone."""
    if timezone.is_aware(when):
        when, now = timezone.localtime(when), timezone.localtime(now)
    return date_format(when, "H:i" if when.date() == now.date() else "Y-m-d H:i")


def percent(ratio: float) -> str:
    share = ratio * 100
    return f"{share:.0f} %" if share >= 1 or not share else f"{share:.1g} %"
