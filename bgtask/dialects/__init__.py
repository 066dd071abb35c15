"""The few things bgtask has to ask each database for in its own words."""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask.dialects.base import MOST_HEADS, Dialect, Head, Outlook, Server
from bgtask.dialects.clock import Clock, KeyFrom, Since
from bgtask.dialects.mariadb import MariaDB
from bgtask.dialects.postgresql import PostgreSQL
from bgtask.dialects.references import Reference, referred
from bgtask.dialects.refusals import TooLarge, is_about_data
from bgtask.dialects.sqlite import SQLite

__all__ = [
    "MOST_HEADS",
    "Clock",
    "Dialect",
    "Head",
    "KeyFrom",
    "Outlook",
    "Reference",
    "Server",
    "Since",
    "TooLarge",
    "dialect_of",
    "is_about_data",
    "referred",
]

_mariadb = MariaDB()  # And MySQL.
_dialects: dict[str, Dialect] = {"postgresql": PostgreSQL(), "sqlite": SQLite()}


def dialect_of(connection: BaseDatabaseWrapper) -> Dialect:
    return _dialects.get(connection.vendor, _mariadb)
