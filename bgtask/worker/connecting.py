"""Prepare each new database connection in the process of a worker."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from bgtask.loggers import get_logger
from bgtask.worker.poolers import told_pid
from bgtask.worker.sessions import (
    unwatch_sqlite_connections,
    watch_new_connection,
    watch_sqlite_connections,
)

logger = get_logger(__name__)

# A server keeps the row locks of a client until it knows that the client has gone. The unit of the
# first two values is seconds, and that of tcp_user_timeout is milliseconds. Behind a pooler nothing
# is set, because the session soon belongs to another client. Settings that the project, its role or
# its server has changed are left alone.
_SET_KEEPALIVES = """
    SELECT set_config(name, value, false)
    FROM pg_settings JOIN (
        VALUES ('tcp_keepalives_idle', '15'), ('tcp_keepalives_interval', '5'),
               ('tcp_keepalives_count', '3'), ('tcp_user_timeout', '30000')
    ) AS keepalive (name, value) USING (name)
    WHERE source = 'default' AND pg_backend_pid() = %s
"""

_lock = threading.Lock()
_users = 0


@contextlib.contextmanager
def prepared_connections() -> Iterator[None]:
    """Prepare each connection that any thread of this process makes inside this context."""
    global _users
    with _lock:
        _users += 1
        connection_created.connect(_prepare, dispatch_uid="bgtask")
    try:
        for connection in connections.all(initialized_only=True):
            if connection.connection is not None:
                set_keepalives(connection)
        watch_sqlite_connections()
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                connection_created.disconnect(dispatch_uid="bgtask")
                unwatch_sqlite_connections()


def _prepare(*, connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    set_keepalives(connection)
    watch_new_connection(connection)


def set_keepalives(connection: BaseDatabaseWrapper) -> None:
    """Make the server notice within half a minute that this host has gone."""
    if not _is_by_tcp(connection) or not connection.get_autocommit():
        return
    try:
        with connection.cursor() as cursor:
            cursor.execute(_SET_KEEPALIVES, [told_pid(connection)])
    except Exception as error:
        # The server works without keepalives. The next statement notices a broken connection.
        logger.debug("The server refuses keepalives on %r: %s", connection.alias, error)


def _is_by_tcp(connection: BaseDatabaseWrapper) -> bool:
    if connection.vendor != "postgresql":
        return False
    try:
        host = connection.connection.info.host
    except Exception:
        return False
    return bool(host) and not host.startswith(("/", "@"))
