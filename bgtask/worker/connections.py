"""Prepare each new connection of a worker, and clean up between tasks what they leave on it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.db import InterfaceError, connections, reset_queries
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from bgtask import clock
from bgtask.db.internals import (
    check_before_next_use,
    forget_driver_connection,
    forget_transaction,
    replace_connection,
    take_error,
)
from bgtask.loggers import get_logger
from bgtask.worker.poolers import reported_pid
from bgtask.worker.sessions import (
    OwnConnection,
    Sessions,
    unwatch_sqlite_connections,
    watch_new_connection,
    watch_sqlite_connections,
)
from bgtask.worker.watchdog import watched

logger = get_logger(__name__)

# A connection that was not used for so long is tried before a task gets it.
IDLE_CHECK_SECONDS = 5.0

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
            cursor.execute(_SET_KEEPALIVES, [reported_pid(connection)])
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


def disable_pooling() -> None:
    """
    Make this process connect to each database without the driver's pool.

    Each thread keeps its connection, so a pool could run out of connections. The last thread,
    perhaps the one that writes outcomes, would then wait without end.
    """
    for connection in connections.all():
        connection.settings_dict["OPTIONS"].pop("pool", None)  # All threads share it.


class ConnectionGuard:
    """
    Guard the connections of one thread.

    Healthy connections are kept, whatever CONN_MAX_AGE says. Connecting again for each task would
    cost several times as much as the task itself.
    """

    def __init__(self) -> None:
        self._used_at = clock.monotonic()
        self._sessions = Sessions()
        self._keeps_queries = settings.DEBUG  # Django keeps them, and would use up the memory.

    def before(self) -> None:
        if clock.monotonic() - self._used_at > IDLE_CHECK_SECONDS:
            for connection in connections.all(initialized_only=True):
                _replace_if_broken(connection)

    def after(self, what: object) -> None:
        """Clean up what a task left behind; ``what`` names the task in warnings."""
        unfit = []
        for alias, own in self._sessions.own.items():
            try:
                if not own.is_untouched() and not _clean_up(own, what):
                    unfit.append(own)
            except BaseException:  # Receivers of connection_created are code of the project.
                logger.exception("The connection %r that %s left behind is dropped.", alias, what)
                unfit.append(own)
        for own in unfit:
            _discard(own.connection)
            self._sessions.replace(own.connection.alias)
        while self._sessions.displaced:
            _discard(connection := self._sessions.displaced.pop())
            self._sessions.follow(connection.alias)
        if self._keeps_queries:
            reset_queries()
        self._used_at = clock.monotonic()


def _clean_up(own: OwnConnection, what: object) -> bool:
    """Clean up the connection; return False if the next task can't use it."""
    connection = own.connection
    if connection.connection is None and not connection.in_atomic_block:
        return not own.is_changed()
    used = own.is_used()
    if connection.in_atomic_block:
        return _is_left(connection, what, "left a transaction open")
    if not connection.autocommit and connection.settings_dict["AUTOCOMMIT"]:
        return _is_left(connection, what, "turned autocommit off")
    try:
        is_open = connection.autocommit and _has_open_transaction(connection)
    except Exception:
        return False  # The connection is closed or lost, and Django may not know.
    if is_open:
        return _is_left(connection, what, "left a transaction open")
    if own.is_changed(used):
        logger.debug("%s changed its session on %r.", what, connection.alias)
        return False
    if not connection.settings_dict["AUTOCOMMIT"]:
        connection.rollback()  # The next task must not commit this task's changes.
    elif take_error(connection):
        _replace_if_broken(connection)
    check_before_next_use(connection)
    return True


def reset_connection(alias: str) -> None:
    """Replace the worker's own connection after an error if it is broken or in a transaction."""
    connection = connections[alias]
    if connection.in_atomic_block:
        _discard(connection)
    elif connection.connection is not None:
        _replace_if_broken(connection)


def _replace_if_broken(connection: BaseDatabaseWrapper) -> None:
    with watched(connection.alias):
        if connection.connection is not None and not _is_usable(connection):
            _close(connection)


def _has_open_transaction(connection: BaseDatabaseWrapper) -> bool:
    """
    Return whether a transaction is open, even if a task opened it without Django.

    Ask the driver, which sends nothing to the server. Raise an error if the connection is closed.
    """
    raw = connection.connection
    if connection.vendor == "postgresql":
        if raw.closed:
            raise InterfaceError("the connection is closed")
        status = (getattr(raw, "pgconn", None) or raw.info).transaction_status
        # The codes mean active, in a transaction, and in a failed transaction.
        return not raw.autocommit or status in (1, 2, 3)
    if connection.vendor == "sqlite":
        return bool(raw.in_transaction) or raw.isolation_level is not None
    return not raw.get_autocommit()


def _is_usable(connection: BaseDatabaseWrapper) -> bool:
    if connection.vendor != "sqlite":
        return bool(connection.is_usable())
    try:  # Django calls every SQLite connection usable, even a closed one.
        connection.connection.execute("SELECT 1").fetchall()
    except Exception:
        return False
    return True


def _is_left(connection: BaseDatabaseWrapper, what: object, fault: str) -> bool:
    logger.warning(
        "%s %s on the database %r; what it wrote there is rolled back.",
        what,
        fault,
        connection.alias,
    )
    return False


def _discard(connection: BaseDatabaseWrapper) -> None:
    """
    Close the connection and make Django build a new wrapper.

    close() alone would leave the old wrapper inside its atomic block, where it stays useless.
    PostgreSQL rolls back a transaction when its connection is closed. A rollback by the client
    would wait for an unfinished COPY.
    """
    raw, alias = connection.connection, connection.alias
    try:
        if raw is not None:
            if connection.vendor != "postgresql":
                raw.rollback()  # close() doesn't close an in-memory SQLite database.
            forget_transaction(connection)
            if connection.settings_dict["OPTIONS"].get("pool"):
                raw.close()  # Otherwise the pool would give it to others as it is.
            _close(connection)
    except Exception:
        logger.debug("A connection could not be closed.", exc_info=True)
    if connections[alias] is connection:  # The task may have deleted it.
        replace_connection(alias)


def _close(connection: BaseDatabaseWrapper) -> None:
    try:
        connection.close()
    except Exception:
        # The connection is broken anyway. A failing close() changes nothing.
        forget_driver_connection(connection)
