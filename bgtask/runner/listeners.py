"""What wakes an idle runner: notifications of PostgreSQL, SQLite's counter of changes."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Any

from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask.conf import get_settings
from bgtask.dialects.postgresql import CHANNEL
from bgtask.runner.alarm import Alarm
from bgtask.runner.echo import NotHeard, prove
from bgtask.runner.watchdog import limit_waiting

logger = logging.getLogger("bgtask")

SQLITE_GLANCE = 0.05  # Seconds between two looks at whether somebody has written.
RECONNECT = 30.0
PROVE_AGAIN_SECONDS = 300.0  # The pooler may have been configured differently by then.


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
    _not_before: float | None = None  # When to try again.
    _said: str | None = None  # The last reason for not listening at all.

    def ready(self) -> None:
        if self._connection is not None:
            return
        if self._not_before is not None and time.monotonic() < self._not_before:
            return
        connection = connections[self._own_alias].copy()
        connection.settings_dict["OPTIONS"].pop("pool", None)
        connection.settings_dict["AUTOCOMMIT"] = True  # Else LISTEN is never committed.
        try:
            connection.ensure_connection()  # connect() would raise the driver's own errors.
            self._open(connection)
        except Error as error:
            connection.close()
            self._not_before = time.monotonic() + RECONNECT
            self._lost(error)
        except NotHeard as reason:
            connection.close()
            self._not_before = time.monotonic() + PROVE_AGAIN_SECONDS
            self._say_once(str(reason))
        else:
            self._connection, self._not_before, self._said = connection, None, None

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
        if reason != self._said:
            logger.warning(
                "This worker polls for new tasks, and is not woken: %s. Set BGTASK['LISTEN'] to "
                "the alias of a direct connection to the same database, or to False.",
                reason,
            )
        self._said = reason

    def _lost(self, error: BaseException) -> None:
        self.close()
        logger.warning("Not woken by the database for a while, polling instead: %s", error)


class Listen(_OwnConnection):
    """
    PostgreSQL: LISTEN. Every enqueue notifies, with the name of its queue.

    BGTASK["LISTEN"] may name another alias of the same database to listen on.
    """

    def __init__(self, alarm: Alarm, alias: str, queues: Sequence[str] | None = None) -> None:
        super().__init__(alarm, alias, queues)
        self._news: set[str] = set()

    @property
    def _own_alias(self) -> str:
        return get_settings().listen or self._alias

    def _open(self, connection: BaseDatabaseWrapper) -> None:
        prove(connection, self._alias)
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
    listen = get_settings().listen
    if connection.vendor == "postgresql" and _has_psycopg3(connection) and listen is not False:
        limit_waiting(listen or alias)
        return Listen(alarm, alias, queues)
    if connection.vendor == "sqlite":
        return DataVersion(alarm, alias)
    return Wakeup(alarm, alias)


def _has_psycopg3(connection: Any) -> bool:
    return bool(connection.Database.__name__ == "psycopg")
