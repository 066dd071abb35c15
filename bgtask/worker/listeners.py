"""Sleep until a thread, a signal or the database wakes the worker."""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Sequence
from typing import Any

from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask import clock
from bgtask.conf import get_settings
from bgtask.db.internals import driver_of, separate_connection
from bgtask.db.postgresql import CHANNEL
from bgtask.loggers import get_logger
from bgtask.worker.poolers import NotHeard, check_notifications
from bgtask.worker.watchdog import limit_waiting

logger = get_logger(__name__)

# For one call of poll(), which takes its timeout as milliseconds in a C int.
MAX_SLEEP_SECONDS = 86_400.0

# select() takes no descriptor above 1023, and epoll would open one more for each sleep.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Waker:
    """
    A sleep that a thread or a signal handler may cut short.

    This is a pair of sockets, not a threading.Event, because a signal handler can't safely set an
    Event. The signal may interrupt the main thread inside wait(), where that thread holds the
    Event's lock. The handler would then hang.
    """

    def __init__(self) -> None:
        self.woken = False  # Whether wake() ended the last sleep.
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        # An idle worker on SQLite sleeps twenty times a second, so keep the selector.
        self._selector = _Selector()
        self._selector.register(self._reader, selectors.EVENT_READ)

    def wake(self) -> None:
        # A full socket wakes the sleeper already. A closed socket has no sleeper.
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")

    def sleep(self, seconds: float, *others: Any) -> bool:
        """
        Sleep so long, or until wake() is called or one of ``others`` can be read.

        Return whether the sleep was cut short.
        """
        descriptors = [one.fileno() for one in others]  # Another thread may close a connection.
        for one in descriptors:
            self._selector.register(one, selectors.EVENT_READ)
        try:
            found = self._selector.select(min(seconds, MAX_SLEEP_SECONDS))
        finally:
            for one in descriptors:
                self._selector.unregister(one)
        ready = [key.fileobj for key, _ in found]
        self.woken = self._reader in ready
        if self.woken:
            self._reader.recv(4096)
        return bool(ready)

    def close(self) -> None:
        self._selector.close()
        self._reader.close()
        self._writer.close()


SQLITE_POLL_SECONDS = 0.05  # Between two readings of the counter of changes.
RECONNECT_SECONDS = 30.0  # Until another try after a connection was lost.
# Until another try after a failed proof. The configuration of the pooler may have changed by then.
PROVE_AGAIN_SECONDS = 300.0


class ChangeListener:
    """
    Sleep until the database reports a change. This base class hears nothing: its runner polls.

    The runner calls ``arm`` before it looks for tasks, and ``sleep`` after it. A change between
    the two calls cuts the sleep short.
    """

    def __init__(self, waker: Waker, alias: str, queues: Sequence[str] | None = None) -> None:
        self._waker = waker
        self._alias = alias
        self._queues = queues

    def arm(self) -> None: ...

    def sleep(self, seconds: float) -> None:
        self._waker.sleep(seconds)

    def changed_queues(self) -> set[str]:
        """Return the queues that were heard of since the last call."""
        return set()

    def close(self) -> None: ...


class _OwnConnection(ChangeListener):
    """A listener with a connection of its own, outside of any pool."""

    _connection: BaseDatabaseWrapper | None = None
    _not_before: float | None = None  # Don't connect before this time.
    _dispatched: str | None = None  # The last logged reason for not listening.

    def arm(self) -> None:
        if self._connection is not None:
            return
        if self._not_before is not None and clock.monotonic() < self._not_before:
            return
        connection = separate_connection(self._own_alias)
        connection.settings_dict["AUTOCOMMIT"] = True  # Otherwise LISTEN is never committed.
        try:
            connection.ensure_connection()  # connect() would raise the driver's errors.
            self._open(connection)
        except Error as error:
            connection.close()
            self._not_before = clock.monotonic() + RECONNECT_SECONDS
            self._lost(error)
        except NotHeard as reason:
            connection.close()
            self._not_before = clock.monotonic() + PROVE_AGAIN_SECONDS
            self._say_once(str(reason))
        else:
            self._connection, self._not_before, self._dispatched = connection, None, None

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with contextlib.suppress(Error):
                connection.close()

    def _open(self, connection: BaseDatabaseWrapper) -> None:
        raise NotImplementedError

    @property
    def _own_alias(self) -> str:
        return self._alias

    def _say_once(self, reason: str) -> None:
        if reason != self._dispatched:
            logger.warning(
                "This worker polls for new tasks, and is not woken: %s. Set BGTASK['LISTEN'] to "
                "the alias of a direct connection to the same database, or to False.",
                reason,
            )
        self._dispatched = reason

    def _lost(self, error: BaseException) -> None:
        self.close()
        logger.warning("Lost the notification connection; polling until it is restored: %s", error)


class PostgresListener(_OwnConnection):
    """
    Listen to PostgreSQL's notifications. Each enqueue sends one with the name of its queue.

    BGTASK["LISTEN"] may name another alias of the same database to listen on.
    """

    def __init__(self, waker: Waker, alias: str, queues: Sequence[str] | None = None) -> None:
        super().__init__(waker, alias, queues)
        self._changed: set[str] = set()

    @property
    def _own_alias(self) -> str:
        return get_settings().listen or self._alias

    def _open(self, connection: BaseDatabaseWrapper) -> None:
        check_notifications(connection, self._alias)
        with connection.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")

    def arm(self) -> None:
        super().arm()
        self._drain()

    def sleep(self, seconds: float) -> None:
        end = clock.monotonic() + seconds
        while (left := end - clock.monotonic()) > 0:
            if self._connection is None:
                self._waker.sleep(min(left, RECONNECT_SECONDS))
                return
            self._waker.sleep(left, self._connection.connection)
            if self._waker.woken or self._drain():
                return

    def changed_queues(self) -> set[str]:
        changed, self._changed = self._changed, set()
        return changed

    def _drain(self) -> bool:
        """Read all notifications; return whether one names a queue that this runner serves."""
        if self._connection is None:
            return False
        try:
            heard = {one.payload for one in self._connection.connection.notifies(timeout=0)}
        except Exception as error:  # The driver's errors, not Django's.
            self._lost(error)
            return True
        if self._queues is not None:
            heard &= {"", *self._queues}
        self._changed |= heard
        return bool(heard)


class SQLiteListener(_OwnConnection):
    """Watch SQLite's counter (data_version), which changes when another connection writes."""

    _version: int | None = None

    def _open(self, connection: BaseDatabaseWrapper) -> None:
        self._cursor = connection.connection.cursor()

    def arm(self) -> None:
        super().arm()
        self._version = self._read_version()

    def sleep(self, seconds: float) -> None:
        end = clock.monotonic() + seconds
        while (left := end - clock.monotonic()) > 0:
            if self._waker.sleep(min(left, SQLITE_POLL_SECONDS)):
                return
            if self._read_version() != self._version:
                return

    def _read_version(self) -> int | None:
        if self._connection is None:
            return None
        try:
            return int(self._cursor.execute("PRAGMA data_version").fetchone()[0])
        except Exception as error:
            self._lost(error)
            return None


def listener_for(waker: Waker, alias: str, queues: Sequence[str] | None = None) -> ChangeListener:
    connection = connections[alias]
    listen = get_settings().listen
    if connection.vendor == "postgresql" and _has_psycopg3(connection) and listen is not False:
        limit_waiting(listen or alias)
        return PostgresListener(waker, alias, queues)
    if connection.vendor == "sqlite":
        return SQLiteListener(waker, alias)
    return ChangeListener(waker, alias)


def _has_psycopg3(connection: Any) -> bool:
    return bool(driver_of(connection).__name__ == "psycopg")
