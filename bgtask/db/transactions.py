"""Refuse to work if the database allows no transactions."""

from __future__ import annotations

from django.db import Error, connections, transaction

REFUSAL = "statement pooling"  # Part of PgBouncer's message, whatever the server's language.


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
