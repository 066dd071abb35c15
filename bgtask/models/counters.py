"""Count within what the columns hold: a row edited by hand must not fail a statement for others."""

from __future__ import annotations

from typing import Any

from django.db.models import F, Value
from django.db.models.expressions import Combinable
from django.db.models.functions import Greatest, Least

from bgtask.db.sql import COUNT_MAX, TOKEN_CEILING


def raised_token() -> Combinable:
    """Return the token plus one. Only a claim needs a random jump, since only claims are held."""
    return Least(F("token"), Value(TOKEN_CEILING)) + Value(1)


def attempts_without_one() -> Combinable:
    """Return the attempts less one that does not count, but not less than zero."""
    return Greatest(F("attempts"), Value(1)) - Value(1)


def as_count(value: Any) -> int:
    """Return the value, or the highest count where it is none; SQLite stores text in any column."""
    return value if isinstance(value, int) and 0 <= value <= COUNT_MAX else COUNT_MAX
