"""The operations for which each database needs SQL of its own."""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask.db.deadlocks import again_after_deadlock
from bgtask.db.functions import DatabaseNow, KeysetAtOrAfter, SecondsSince
from bgtask.db.mysql import MariaDB
from bgtask.db.operations import (
    MAX_HEADS,
    Claimant,
    Head,
    QueueOperations,
    QueueSnapshot,
    Replacement,
    Server,
)
from bgtask.db.postgresql import PostgreSQL
from bgtask.db.references import Reference, referred
from bgtask.db.refusals import TooLarge, is_about_data
from bgtask.db.sqlite import SQLite

__all__ = [
    "MAX_HEADS",
    "Claimant",
    "DatabaseNow",
    "Head",
    "KeysetAtOrAfter",
    "QueueOperations",
    "QueueSnapshot",
    "Reference",
    "Replacement",
    "SecondsSince",
    "Server",
    "TooLarge",
    "again_after_deadlock",
    "is_about_data",
    "operations_for",
    "referred",
]

_mariadb = MariaDB()  # MySQL uses the same operations.
_operations: dict[str, QueueOperations] = {"postgresql": PostgreSQL(), "sqlite": SQLite()}


def operations_for(connection: BaseDatabaseWrapper) -> QueueOperations:
    return _operations.get(connection.vendor, _mariadb)
