"""Keep counters within their columns' bounds, so that a row edited by hand can't fail others."""

from __future__ import annotations

from django.db.models import F, Value
from django.db.models.expressions import Combinable
from django.db.models.functions import Greatest, Least

from bgtask.db.sql import TOKEN_CEILING


def raised_token() -> Combinable:
    """
    Return the token plus one.

    Only a claim needs a random jump, since workers only hold tokens of claims.
    """
    return Least(F("token"), Value(TOKEN_CEILING)) + Value(1)


def attempts_without_one() -> Combinable:
    """Return the attempts minus one that does not count, but at least zero."""
    return Greatest(F("attempts"), Value(1)) - Value(1)
