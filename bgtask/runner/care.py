"""The care of a thread's database connections, so that no task suffers from the one before."""

from __future__ import annotations

import logging
import time

from django.conf import settings
from django.db import InterfaceError, connections, reset_queries
from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask.runner.sessions import OwnConnection, Sessions
from bgtask.runner.watchdog import watched

logger = logging.getLogger("bgtask")

IDLE = 5.0  # Seconds of disuse after which a connection is tried before it is trusted.


def without_pools() -> None:
    """
    In this process, connect to each database without a pool of the driver's.

    Each thread keeps its connection. A pool would run out of them, and the last to come, perhaps
    the one that writes outcomes, would wait for ever.
    """
    for connection in connections.all():
        connection.settings_dict["OPTIONS"].pop("pool", None)  # One for all threads.


class Care:
    """
    Of one thread. Healthy connections are kept, whatever CONN_MAX_AGE says: to reconnect for each
    task would cost several times what the task does.
    """

    def __init__(self) -> None:
        self._used_at = time.monotonic()
        self._sessions = Sessions()

    def before(self) -> None:
        if time.monotonic() - self._used_at > IDLE:
            for connection in connections.all(initialized_only=True):
                _replace_if_broken(connection)

    def after(self, what: object) -> None:
        """Put right what a task left behind; ``what`` is named in the warning."""
        unfit = []
        for alias, own in self._sessions.own.items():
            try:
                if not _put_right(own, what):
                    unfit.append(own)
            except Exception:
                logger.exception("The connection %r that %s left behind is dropped.", alias, what)
                unfit.append(own)
        for own in unfit:
            _forget(own.connection)
            self._sessions.replace(own.connection.alias)
        while self._sessions.displaced:
            _forget(connection := self._sessions.displaced.pop())
            self._sessions.follow(connection.alias)
        if settings.DEBUG:
            reset_queries()
        self._used_at = time.monotonic()


def _put_right(own: OwnConnection, what: object) -> bool:
    """Return False if the connection is not fit for the next task."""
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
        return False  # Closed or lost, perhaps without Django's knowledge.
    if is_open:
        return _is_left(connection, what, "left a transaction open")
    if own.is_changed(used):
        logger.debug("%s changed its session on %r.", what, connection.alias)
        return False
    if not connection.settings_dict["AUTOCOMMIT"]:
        connection.rollback()  # What it did not commit, the next one must not.
    elif connection.errors_occurred:
        _replace_if_broken(connection)
        connection.errors_occurred = False
    # With CONN_HEALTH_CHECKS, the first statement of the next task is to find out anew.
    connection.health_check_done = False  # type: ignore[attr-defined]
    return True


def mend(alias: str) -> None:
    """After an error on a connection of the runner's own: begin anew with a fresh one."""
    connection = connections[alias]
    if connection.in_atomic_block:
        _forget(connection)
    elif connection.connection is not None:
        _replace_if_broken(connection)


def _replace_if_broken(connection: BaseDatabaseWrapper) -> None:
    with watched(connection.alias):
        if connection.connection is not None and not _is_usable(connection):
            _close(connection)


def _has_open_transaction(connection: BaseDatabaseWrapper) -> bool:
    """
    Ask the driver, which sees what a task did without Django; it asks no server.

    Raise an error if the connection is closed.
    """
    raw = connection.connection
    if connection.vendor == "postgresql":
        if raw.closed:
            raise InterfaceError("the connection is closed")
        status = (getattr(raw, "pgconn", None) or raw.info).transaction_status
        # Active, in a transaction, in a failed one.
        return not raw.autocommit or status in (1, 2, 3)
    if connection.vendor == "sqlite":
        return bool(raw.in_transaction) or raw.isolation_level is not None
    return not raw.get_autocommit()


def _is_usable(connection: BaseDatabaseWrapper) -> bool:
    if connection.vendor != "sqlite":
        return bool(connection.is_usable())
    try:  # Django takes SQLite's word for it, even if its connection has been closed.
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


def _forget(connection: BaseDatabaseWrapper) -> None:
    """
    Close the connection and make Django build a new wrapper.

    close() alone would leave the old one inside its atomic block, and useless for ever.
    PostgreSQL rolls back what it is closed in; a rollback would wait for an unfinished COPY.
    """
    raw, alias = connection.connection, connection.alias
    try:
        if raw is not None:
            if connection.vendor != "postgresql":
                raw.rollback()  # SQLite's in memory is not closed by close().
            connection.in_atomic_block = False
            connection.savepoint_ids = []
            connection.run_on_commit = []
            if connection.settings_dict["OPTIONS"].get("pool"):
                raw.close()  # Or the pool would give it to others as it is.
            _close(connection)
    except Exception:
        logger.debug("A connection could not be closed.", exc_info=True)
    if connections[alias] is connection:  # The task may have deleted it.
        del connections[alias]


def _close(connection: BaseDatabaseWrapper) -> None:
    try:
        connection.close()
    except Exception:
        # Broken is broken; that it cannot even be closed changes nothing.
        connection.connection = None
