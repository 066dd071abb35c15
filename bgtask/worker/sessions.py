"""Notice which connections of a thread a task may have changed for the next one.

Search path, role, settings, session locks and temporary tables belong to a connection. Asking the
server for them would cost a statement after each task. This module reads a task's statements
instead.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask.db.internals import (
    attributes_of_django,
    is_djangos_own,
    put_wrapper_first,
    unused_connection,
)
from bgtask.worker.drivers import begin_watch, settings_of, unwatch_sqlite, watch_sqlite
from bgtask.worker.statements import may_change_session

# PostgreSQL reports changes of these settings without being asked (search_path since 18).
_REPORTED = (
    b"search_path", b"session_authorization", b"is_superuser", b"TimeZone",
    b"default_transaction_read_only",
)  # fmt: skip
_SIMPLE = (str, bytes, int, float, type(None), tuple, list)

_of_thread = threading.local()


class Sessions:
    """
    The connections of the thread that makes this object.

    All of them are checked after each task, so the check of an unused one must cost next to
    nothing.
    """

    def __init__(self) -> None:
        self.own: dict[str, OwnConnection] = {}
        # Connections that are no longer used, since a task connected with another object.
        self.displaced: list[BaseDatabaseWrapper] = []
        _of_thread.sessions = self
        for alias in connections:
            with contextlib.suppress(Exception):  # Without its driver, no task can use an alias.
                self.own[alias] = OwnConnection(connections[alias])

    def replace(self, alias: str) -> None:
        """Use the connection that Django makes for this alias now."""
        self.own[alias] = OwnConnection(connections[alias])

    def follow(self, alias: str) -> None:
        """Make sure that the watched connection is the one that tasks will use."""
        if self.own[alias].connection is not connections[alias]:
            self.replace(alias)

    def watch(self, connection: BaseDatabaseWrapper) -> None:
        """Begin to watch a new connection, which nothing has changed so far."""
        before = self.own.get(connection.alias)
        if before is not None and before.connection is not connection:
            self.displaced.append(before.connection)
        self.own[connection.alias] = OwnConnection(connection)


class OwnConnection:
    """One of Django's connection objects, with what is known about its session."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection
        self._is_djangos = is_djangos_own(type(connection))
        self._attributes = 0
        self._watch = None if connection.connection is None else _Watch(connection)

    def is_untouched(self) -> bool:
        """Return whether the connection was never opened, and nothing was stored on the object."""
        connection = self.connection
        return (
            connection.connection is None
            and not connection.in_atomic_block
            and self._is_djangos
            and len(vars(connection)) == self._attributes
        )

    def is_used(self) -> bool:
        """Return whether a statement was seen since the last call."""
        if self._watch is None:
            return True
        used, self._watch.used = self._watch.used, False
        return used

    def is_changed(self, used: bool = True) -> bool:
        """Return whether the next task would find the session, or this object, changed."""
        watch = self._watch if self.connection.connection is not None else None
        if watch is not None and (
            watch.changed or watch.is_set() or (used and watch.reports_change())
        ):
            return True
        return self._remembers()

    def _remembers(self) -> bool:
        """Return whether a library keeps other values on the wrapper than a new wrapper has."""
        attributes = vars(self.connection)
        # On a wrapper class of Django, a library must add an attribute before it can change one.
        if self._is_djangos and len(attributes) == self._attributes:
            return False
        kind: Any = type(self.connection)
        if attributes.keys() <= attributes_of_django(kind):
            self._attributes = len(attributes)
            return False
        initial = _initial_attributes(self.connection.alias)
        return _own_attributes(self.connection) != initial


def watch_new_connection(connection: BaseDatabaseWrapper) -> None:
    """
    Watch the connection if this thread runs tasks or signal receivers.

    Ignore a copy: it is not the connection that Django uses for the alias.
    """
    sessions: Sessions | None = getattr(_of_thread, "sessions", None)
    if sessions is not None and any(
        connection is own for own in connections.all(initialized_only=True)
    ):
        sessions.watch(connection)


def watch_sqlite_connections() -> None:
    """Let this process make connections to SQLite that can be watched where Django is passed by."""
    _for_each_sqlite(watch_sqlite)


def unwatch_sqlite_connections() -> None:
    """Undo ``watch_sqlite_connections``."""
    _for_each_sqlite(unwatch_sqlite)


def _for_each_sqlite(change: Callable[[dict[str, Any]], None]) -> None:
    for alias in connections:
        with contextlib.suppress(Exception):  # Without its driver, it is of no use to a task.
            if connections[alias].vendor == "sqlite":
                change(connections[alias].settings_dict["OPTIONS"])


class _Watch:
    """Read the statements that are sent on one connection."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._vendor = connection.vendor
        self._is_in_django = False
        self.changed = False
        self.used = False
        raw = self._raw = connection.connection
        # MySQL's driver gets the parameters inside the text, so read Django's statement there.
        asks_django = not begin_watch(raw, self._vendor, self) or self._vendor == "mysql"
        put_wrapper_first(connection, self if asks_django else None, _Watch)
        self._pgconn = getattr(raw, "pgconn", None)
        self._reported = self._report()
        self._settings = settings_of(raw, self._vendor)

    def __call__(
        self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any
    ) -> Any:
        self._read(sql)
        before, self._is_in_django = self._is_in_django, True
        try:
            return execute(sql, params, many, context)
        finally:
            self._is_in_django = before

    def record(self, statement: Any) -> None:
        """Read a statement that the driver gets, unless Django has shown it to this watch."""
        if not self._is_in_django:
            self._read(statement)

    def _read(self, sql: Any) -> None:
        self.used = True
        if not self.changed and may_change_session(sql, self._vendor):
            self.changed = True

    def reports_change(self) -> bool:
        """Return whether PostgreSQL has reported another value of a setting."""
        return self._pgconn is not None and self._reported != self._report()

    def is_set(self) -> bool:
        """Return whether something was set on the driver's connection itself."""
        return bool(settings_of(self._raw, self._vendor) != self._settings)

    def _report(self) -> list[bytes | None] | None:
        if self._pgconn is None:
            return None
        try:
            return [self._pgconn.parameter_status(name) for name in _REPORTED]
        except Exception:  # It is closed. The next statement will notice.
            return self._reported if hasattr(self, "_reported") else None


@lru_cache
def _initial_attributes(alias: str) -> dict[str, Any]:
    return _own_attributes(unused_connection(alias))


def _own_attributes(connection: BaseDatabaseWrapper) -> dict[str, Any]:
    """Return what a library keeps on the wrapper: a tenant's name, for instance."""
    kind: Any = type(connection)
    names = attributes_of_django(kind)
    return {
        name: value if isinstance(value, _SIMPLE) else type(value)
        for name, value in vars(connection).items()
        if name not in names
    }
