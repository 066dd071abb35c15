"""A sleep that can be cut short: by a thread, by a signal, by the database."""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import time
from collections.abc import Sequence
from typing import Any

from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask.dialects.postgresql import CHANNEL

logger = logging.getLogger("bgtask")

SQLITE_GLANCE = 0.05  # Seconds between two looks at whether somebody has written.
RECONNECT = 30.0
LONGEST = 86_400.0  # Seconds at a stretch; poll() counts milliseconds, and not far.

# select() takes no descriptor above 1023, and epoll would take one more for each sleep.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Alarm:
    """
    A sleep that a thread or a signal handler may cut short.

    A pair of sockets rather than a threading.Event: a handler that sets an Event hangs if the
    signal finds the main thread inside wait(), holding the lock of that Event.
    """

    def __init__(self) -> None:
        self.rang = False  # Whether that is what ended the last sleep.
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def ring(self) -> None:
        with contextlib.suppress(OSError):  # Full, it rings already; closed, nobody sleeps.
            self._writer.send(b"\0")

    def sleep(self, seconds: float, *others: Any) -> bool:
        """Sleep so long, or until it rings or one of these can be read; tell if it was so."""
        with _Selector() as selector:
            for one in (self._reader, *others):
                selector.register(one, selectors.EVENT_READ)
            ringing = [key.fileobj for key, _ in selector.select(min(seconds, LONGEST))]
        self.rang = self._reader in ringing
        if self.rang:
            self._reader.recv(4096)
        return bool(ringing)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


class Wakeup:
    """
    What the database has to say while a runner sleeps; here nothing, and polling suffices.

    ``ready`` is called before looking for work, ``sleep`` after: what is written between the
    two cuts the sleep short.
    """

    def __init__(self, alarm: Alarm, alias: str, queues: Sequence[str] | None = None) -> None:
        self._alarm = alarm
        self._alias = alias
        self._queues = queues

    def ready(self) -> None: ...

    def sleep(self, seconds: float) -> None:
        self._alarm.sleep(seconds)

    def news(self) -> set[str]:
        """Queues that were heard of since this was asked before."""
        return set()

    def close(self) -> None: ...


class _OwnConnection(Wakeup):
    """Listens on a connection of its own, outside of any pool."""

    _connection: BaseDatabaseWrapper | None = None
    _failed_at: float | None = None

    def ready(self) -> None:
        if self._connection is not None:
            return
        if self._failed_at is not None and time.monotonic() < self._failed_at + RECONNECT:
            return
        connection = connections[self._alias].copy()
        connection.settings_dict["OPTIONS"].pop("pool", None)
        try:
            connection.ensure_connection()  # connect() would raise the driver's own errors.
            self._open(connection)
        except Error as error:
            connection.close()
            self._failed_at = time.monotonic()
            self._lost(error)
        else:
            self._connection, self._failed_at = connection, None

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with contextlib.suppress(Error):
                connection.close()

    def _open(self, connection: BaseDatabaseWrapper) -> None:
        raise NotImplementedError

    def _lost(self, error: BaseException) -> None:
        self.close()
        logger.warning("Not woken by the database for a while, polling instead: %s", error)


class Listen(_OwnConnection):
    """PostgreSQL: LISTEN. Every enqueue notifies, with the name of its queue."""

    def __init__(self, alarm: Alarm, alias: str, queues: Sequence[str] | None = None) -> None:
        super().__init__(alarm, alias, queues)
        self._news: set[str] = set()

    def _open(self, connection: BaseDatabaseWrapper) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")

    def ready(self) -> None:
        super().ready()
        self._drain()

    def sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._connection is None:
                self._alarm.sleep(min(left, RECONNECT))
                return
            self._alarm.sleep(left, self._connection.connection)
            if self._alarm.rang or self._drain():
                return

    def news(self) -> set[str]:
        news, self._news = self._news, set()
        return news

    def _drain(self) -> bool:
        """Hear what there is to hear; was any of it about a queue that is served here?"""
        if self._connection is None:
            return False
        try:
            heard = {told.payload for told in self._connection.connection.notifies(timeout=0)}
        except Exception as error:  # The driver's own errors, not Django's.
            self._lost(error)
            return True
        if self._queues is not None:
            heard &= {"", *self._queues}
        self._news |= heard
        return bool(heard)


class DataVersion(_OwnConnection):
    """SQLite: a counter that moves when another connection has written."""

    _version: int | None = None

    def _open(self, connection: BaseDatabaseWrapper) -> None:
        self._cursor = connection.connection.cursor()

    def ready(self) -> None:
        super().ready()
        self._version = self._look()

    def sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._alarm.sleep(min(left, SQLITE_GLANCE)) or self._look() != self._version:
                return

    def _look(self) -> int | None:
        if self._connection is None:
            return None
        try:
            return int(self._cursor.execute("PRAGMA data_version").fetchone()[0])
        except Exception as error:
            self._lost(error)
            return None


def wakeup_for(alarm: Alarm, alias: str, queues: Sequence[str] | None = None) -> Wakeup:
    connection = connections[alias]
    if connection.vendor == "postgresql" and _has_psycopg3(connection):
        return Listen(alarm, alias, queues)
    if connection.vendor == "sqlite":
        return DataVersion(alarm, alias)
    return Wakeup(alarm, alias)


def _has_psycopg3(connection: Any) -> bool:
    return bool(connection.Database.__name__ == "psycopg")
