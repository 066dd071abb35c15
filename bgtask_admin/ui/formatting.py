"""Format names, times, numbers and untrusted text for the pages."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from bgtask import health

# Control characters, invisible characters, characters that change the direction of text, and
# lone surrogates. A page with a lone surrogate can't be encoded. Newline and tab are harmless
# in preformatted text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\t\n]")
_INVISIBLE = re.compile(
    "[\ud800-\udfff\x80-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def visible(text: Any, *, lines: bool = False) -> str:
    """
    Return the text with a visible sign for each invisible character.

    With ``lines``, newlines and tabs stay. The caller must still escape the result.
    """
    text = str(text)
    text = _CONTROL.sub(
        lambda match: match[0] if lines and match[0] in "\n\t" else _sign(match[0]), text
    )
    return _INVISIBLE.sub(lambda match: f"‹U+{ord(match[0]):04X}›", text)


def _sign(character: str) -> str:
    """Return ␀ for NUL, ␛ for ESC, and so on. Unicode has pictures of control characters."""
    return "␡" if character == "\x7f" else chr(0x2400 + ord(character))


def short(text: Any, length: int = 120) -> str:
    text = visible(text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def name(value: Any, length: int = 100) -> SafeString:
    """Return a dotted name that the browser may break after a dot, slash, hyphen and so on."""
    parts = re.split(r"(?<=[._/:-])(?=[^._/:-])", short(value, length))
    return format_html_join(mark_safe("<wbr>"), "{}", ((part,) for part in parts))


# Translatable texts for the units of ``health.duration_parts``, which are English.
_UNITS = {
    "d": gettext_noop("%(number)s d"),
    "h": gettext_noop("%(number)s h"),
    "m": gettext_noop("%(number)s m"),
    "s": gettext_noop("%(number)s s"),
}


def duration(seconds: float | None) -> str:
    """Return at most two units, such as “6 m 52 s”. Below 10 s it is more exact."""
    if seconds is None:
        return "–"
    seconds = max(float(seconds), 0.0)
    if seconds < 1:
        return milliseconds(round(seconds * 1000))
    if seconds < 10:
        return _(_UNITS["s"]) % {"number": f"{seconds:.1f}"}
    return whole_duration(seconds)


def whole_duration(seconds: float) -> str:
    """Return a text such as “6 m 52 s”, without fractions of a second."""
    parts = health.duration_parts(seconds)
    return " ".join(_(_UNITS[unit]) % {"number": number} for number, unit in parts)


def milliseconds(number: int) -> str:
    """Return a text such as “250 ms” or “12,345 ms”."""
    return _("%(number)s ms") % {"number": f"{number:,}"}


def percent(ratio: float) -> str:
    """Return a text such as “7 %”."""
    return _("%(number)s %%") % {"number": health.percent_number(ratio)}


def between(start: datetime | None, end: datetime | None) -> str:
    return duration((end - start).total_seconds()) if start and end else ""


def moment(when: datetime | None, now: datetime | None = None) -> str | SafeString:
    """Return “4 m ago” as HTML, with the exact time as a tooltip and for machines."""
    if when is None:
        return "–"
    seconds = ((now or _now(when)) - when).total_seconds()
    if abs(seconds) < 1:
        words = _("now")
    elif seconds > 0:
        words = _("%s ago") % whole_duration(seconds)
    else:
        words = _("in %s") % whole_duration(-seconds)
    return format_html('<time datetime="{}" title="{}">{}</time>', _iso(when), exact(when), words)


def clock(when: datetime | None, now: datetime | None = None) -> str | SafeString:
    """Return “11:57:03” as HTML, with the date if it is not today."""
    if when is None:
        return "–"
    local = _local(when)
    today = _local(now or _now(when)).date()
    words = date_format(local, "H:i:s" if local.date() == today else "Y-m-d H:i:s")
    return format_html('<time datetime="{}" title="{}">{}</time>', _iso(when), exact(when), words)


def is_past(when: datetime) -> bool:
    return when <= _now(when)


def exact(when: datetime) -> str:
    """Return the time in the project's time zone and in UTC."""
    local = date_format(_local(when), "Y-m-d H:i:s")
    if not timezone.is_aware(when):
        return local
    utc = (when - (when.utcoffset() or timedelta())).replace(tzinfo=None)
    return f"{local} {timezone.get_current_timezone_name()} · {utc:%Y-%m-%d %H:%M:%S} UTC"


def count(number: int, cap: int | None = None) -> str:
    """Return “1,204”, or “10,000+” if the number is above ``cap``."""
    return f"{cap:,}+" if cap is not None and number > cap else f"{number:,}"


def _iso(when: datetime) -> str:
    return when.isoformat(timespec="seconds")


def _local(when: datetime) -> datetime:
    return timezone.localtime(when) if timezone.is_aware(when) else when


def _now(like: datetime) -> datetime:
    return timezone.now() if timezone.is_aware(like) else datetime.now()
