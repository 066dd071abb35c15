"""Find the database of the queue, check that it allows transactions, and read its clock."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from django.apps import apps
from django.db import Error, connections, models, router, transaction

from bgtask.db import DatabaseNow, operations_for

REFUSAL = "statement pooling"  # Part of PgBouncer's message, whatever the server's language.
_CLOCK = DatabaseNow()  # The converters only ask for the type of its values.


class QueueManager(models.Manager[Any]):
    """
    A manager that reads from the database to which it writes.

    A replica that lags behind would show tasks that no longer exist.
    """

    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().using(self._db or router.db_for_write(self.model))


def queue_alias() -> str:
    """Return the alias of the queue's database. The router decides."""
    return router.db_for_write(apps.get_model("bgtask", "Task"))


def database_now(alias: str) -> datetime:
    """Return the time of the database's clock, as Django would read it from a column."""
    connection = connections[alias]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {operations_for(connection).clock(connection)}", [])
        (value,) = cursor.fetchone()
    return as_read(connection, value)  # type: ignore[no-any-return]


def writing(alias: str) -> AbstractContextManager[None]:
    """Open a short transaction that will write, though it may read first."""
    connection = connections[alias]
    return operations_for(connection).transaction(connection)


def as_read(connection: Any, value: Any) -> Any:
    """Convert a datetime from the driver as the ORM would, and return it."""
    for convert in connection.ops.get_db_converters(_CLOCK):
        value = convert(value, _CLOCK, connection)
    return value


class TransactionsRefused(Exception):
    """A connection pooler is in statement mode, and allows no transactions."""


def check_transactions(alias: str) -> None:
    """
    Raise TransactionsRefused if a pooler allows no transactions on this database.

    Raise Django's Error if the database doesn't answer.
    """
    connection = connections[alias]
    if connection.vendor != "postgresql":
        return
    try:
        with transaction.atomic(using=alias), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Error as error:
        if REFUSAL not in str(error):
            raise
        raise TransactionsRefused(
            f"The database {alias!r} is behind a connection pooler in statement mode, which "
            "allows no transactions. Set pool_mode to transaction or session, or connect "
            "directly."
        ) from error
