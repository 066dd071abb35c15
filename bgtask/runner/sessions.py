"""Notice which connections of a thread a task may have changed for the next one.

Search path, role, settings, session locks and temporary tables belong to a connection. To ask the
server for them would cost a statement after each task. This module reads what a task sends.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask.runner.drivers import begin_watch, settings_of, unwatch_sqlite, watch_sqlite
from bgtask.runner.statements import may_change_session

# PostgreSQL reports changes of these without being asked (search_path since 18).
_REPORTED = (
    b"search_path", b"session_authorization", b"is_superuser", b"TimeZone",
    b"default_transaction_read_only",
)  # fmt: skip
_SIMPLE = (str, bytes, int, float, type(None), tuple, list)
# Attributes that Django sets when it connects.
_OF_CONNECTING = ("init_commands", "transaction_mode", "isolation_level")
_DJANGO = ("django.db.backends.", "django.contrib.gis.db.backends.")

_of_thread = threading.local()


class Sessions:
    """
    The connections of the thread that makes this object.

    All of them are looked at after each task, so a look at an unused one must cost next to nothing.
    """

    def __init__(self) -> None:
        self.own: dict[str, OwnConnection] = {}
        self.displaced: list[BaseDatabaseWrapper] = []  # By a task that connected with another.
        _of_thread.sessions = self
        for alias in connections:
            with contextlib.suppress(Exception):  # Without its driver, it is of no use to a task.
                self.own[alias] = OwnConnection(connections[alias])

    def replace(self, alias: str) -> None:
        """Go on with the connection that Django makes for this alias now."""
        self.own[alias] = OwnConnection(connections[alias])

    def follow(self, alias: str) -> None:
        """Make sure that the connection which is looked at is the one that tasks will use."""
        if self.own[alias].connection is not connections[alias]:
            self.replace(alias)

    def watch(self, connection: BaseDatabaseWrapper) -> None:
        """Begin to watch a new connection: nothing has changed it so far."""
        before = self.own.get(connection.alias)
        if before is not None and before.connection is not connection:
            self.displaced.append(before.connection)
        self.own[connection.alias] = OwnConnection(connection)


class OwnConnection:
    """One of Django's connection objects, and what is known of its session."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection
        kind: Any = type(connection)
        self._is_djangos = kind.__module__.startswith(_DJANGO)
        self._attributes = 0
        self._watch = None if connection.connection is None else _Watch(connection)

    def is_used(self) -> bool:
        """Return whether a statement was seen since this was last asked."""
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
        """Compare what a library keeps on the wrapper with what a new wrapper has."""
        attributes = vars(self.connection)
        # A library has to add an attribute to a wrapper of Django's own before it can change one.
        if self._is_djangos and len(attributes) == self._attributes:
            return False
        kind: Any = type(self.connection)
        if attributes.keys() <= _djangos_names(kind):
            self._attributes = len(attributes)
            return False
        initial = _initial_attributes(self.connection.alias)
        return _own_attributes(self.connection) != initial


def watch_new_connection(connection: BaseDatabaseWrapper) -> None:
    """Watch it if this thread runs tasks or signal receivers, and it is not somebody's copy."""
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
    """Read along what is sent on one connection."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._vendor = connection.vendor
        self._is_in_django = False
        self.changed = False
        self.used = False
        raw = self._raw = connection.connection
        wrappers = connection.execute_wrappers
        wrappers[:] = [wrapper for wrapper in wrappers if not isinstance(wrapper, _Watch)]
        # MySQL's driver has the parameters in the text, so that Django's is the one to be read.
        if not begin_watch(raw, self._vendor, self) or self._vendor == "mysql":
            # In front, where nobody's `with connection.execute_wrapper(…)` takes it away.
            wrappers.insert(0, self)
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

    def note(self, statement: Any) -> None:
        """Read what the driver is asked, unless Django has shown it before."""
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
        except Exception:  # Closed: the next statement finds out.
            return self._reported if hasattr(self, "_reported") else None


@lru_cache
def _djangos_names(kind: Any) -> frozenset[str]:
    """The attributes of the class of Django's own that a library's wrapper extends."""
    own = next((base for base in kind.__mro__ if base.__module__.startswith(_DJANGO)), kind)
    settings = next(iter(connections.settings.values()))
    return frozenset([*vars(own(settings, "")), *dir(own), *_OF_CONNECTING])


@lru_cache
def _initial_attributes(alias: str) -> dict[str, Any]:
    return _own_attributes(connections.create_connection(alias))


def _own_attributes(connection: BaseDatabaseWrapper) -> dict[str, Any]:
    """What a library keeps on the wrapper: a tenant's name, for instance."""
    kind: Any = type(connection)
    names = _djangos_names(kind)
    return {
        name: value if isinstance(value, _SIMPLE) else type(value)
        for name, value in vars(connection).items()
        if name not in names
    }
