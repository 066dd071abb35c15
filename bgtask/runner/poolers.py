"""Is there a pooler between a connection and its PostgreSQL server?"""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper


def is_direct(connection: BaseDatabaseWrapper) -> bool:
    """
    Compare the server process that answers with the one that was named when it connected.

    A pooler invents that number, since its clients do not keep one server process. Only
    PostgreSQL tells it; the answer for any other database is False.
    """
    if connection.vendor != "postgresql":
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return bool(cursor.fetchone()[0] == told_pid(connection))


def told_pid(connection: BaseDatabaseWrapper) -> int:
    """The server process that the other end named when the connection was made."""
    return int(connection.connection.info.backend_pid)
