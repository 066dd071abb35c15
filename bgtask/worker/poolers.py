"""Find out whether a connection pooler is between this process and PostgreSQL."""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper


def is_direct(connection: BaseDatabaseWrapper) -> bool:
    """
    Return whether no pooler is between this process and its PostgreSQL server.

    PostgreSQL tells a client the process id of its session when the client connects. A pooler
    tells the client a number that it made up.
    """
    return backend_pid(connection) == told_pid(connection)


def backend_pid(connection: BaseDatabaseWrapper) -> int:
    """Return the process id of the server's session that runs a statement now."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def told_pid(connection: BaseDatabaseWrapper) -> int:
    """Return the process id that the server or the pooler sent when the connection was made."""
    return int(connection.connection.info.backend_pid)
