"""Read values that a project gives: as plain text, or as a short description for an error."""

from __future__ import annotations

from typing import Any

from django.utils.functional import Promise

MOST_CHARACTERS = 200


def as_text(value: Any) -> str | None:
    """
    Return the text as a plain ``str``, or None if the value is not text.

    Text is a string, a member of ``class Queue(str, Enum)`` or a lazy translation. ``str()`` of
    such a member would be "Queue.MAIL", and not the value of the member.
    """
    if type(value) is str:
        return value
    if isinstance(value, Promise):
        value = str(value)
    return str.__str__(value) if issubclass(type(value), str) else None


def brief(value: Any) -> str:
    """
    Return the value's repr, shortened. Never raise an error.

    The repr of a project's object may raise anything, and Python refuses that of a number with
    thousands of digits. Return a description of the value then.
    """
    try:
        text = str.__str__(repr(value))
    except Exception:
        if isinstance(value, int):
            return "a number of thousands of digits"
        return f"a {type(value).__qualname__} whose repr() fails"
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


def is_encodable(text: str) -> bool:
    """Return False if the text has half a character (a surrogate), which no encoding has."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
