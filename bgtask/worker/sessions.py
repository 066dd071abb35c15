"""Notice which connections of a thread a task may have changed for the next one.

Search path, role, settings, session locks and temporary tables belong to a connection. To ask the
server for them would cost a statement after each task. This module reads what a task sends.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask.worker.statements import begins_harmlessly, may_change_session

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
        _of_thread.sessions = self
        for alias in connections:
            with contextlib.suppress(Exception):  # Without its driver, it is of no use to a task.
                self.own[alias] = OwnConnection(connections[alias])

    def replace(self, alias: str) -> None:
        """Go on with the connection that Django makes for this alias now."""
        self.own[alias] = OwnConnection(connections[alias])

    def watch(self, connection: BaseDatabaseWrapper) -> None:
        """Begin to watch a new connection: nothing has changed it so far."""
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
        if watch is not None and (watch.changed or (used and watch.reports_change())):
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


class _Watch:
    """Read along what is sent on one connection."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._vendor = connection.vendor
        self.changed = False
        self.used = False
        raw = connection.connection
        wrappers = connection.execute_wrappers
        wrappers[:] = [wrapper for wrapper in wrappers if not isinstance(wrapper, _Watch)]
        # In front, where nobody's `with connection.execute_wrapper(…)` takes it away.
        wrappers.insert(0, self)
        self._pgconn = getattr(raw, "pgconn", None)
        # The driver as well: callproc and raw connections pass Django by.
        if self._pgconn is not None:
            raw.bgtask_watch = self
            if not issubclass(raw.cursor_factory, _Watched):  # As one from a pool may be.
                raw.cursor_factory = _watched_cursor(raw.cursor_factory)
            del wrappers[0]  # It would see each statement twice.
        elif self._vendor == "mysql" and hasattr(raw, "query"):
            _watch_queries(raw, self._note_beginning)
        self._reported = self._report()

    def __call__(
        self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any
    ) -> Any:
        self.note(sql)
        return execute(sql, params, many, context)

    def note(self, sql: Any) -> None:
        self.used = True
        if not self.changed and may_change_session(sql, self._vendor):
            self.changed = True

    def reports_change(self) -> bool:
        """Return whether PostgreSQL has reported another value of a setting."""
        return self._pgconn is not None and self._reported != self._report()

    def _report(self) -> list[bytes | None] | None:
        if self._pgconn is None:
            return None
        try:
            return [self._pgconn.parameter_status(name) for name in _REPORTED]
        except Exception:  # Closed: the next statement finds out.
            return self._reported if hasattr(self, "_reported") else None

    def _note_beginning(self, query: Any) -> None:
        """What MySQL's driver sends has its parameters in the text, and may be very long."""
        self.used = True
        if not self.changed:
            text = bytes(query[:500]).decode(errors="replace")
            self.changed = not begins_harmlessly(text, self._vendor)


class _Watched:
    """Marks the cursor classes that tell what they execute."""


@lru_cache
def _watched_cursor(base: Any) -> Any:
    class WatchedCursor(_Watched, base):  # type: ignore[misc]
        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            _note(self, query)
            return super().execute(query, *args, **kwargs)

        def executemany(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            _note(self, query)
            return super().executemany(query, *args, **kwargs)

        def stream(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            _note(self, query)
            return super().stream(query, *args, **kwargs)

    WatchedCursor.__name__ = base.__name__
    WatchedCursor.__qualname__ = base.__qualname__
    return WatchedCursor


def _note(cursor: Any, query: Any) -> None:
    watch = cursor.connection.bgtask_watch
    if watch.changed:
        return
    if hasattr(query, "as_string"):  # psycopg.sql.
        with contextlib.suppress(Exception):  # Then it is taken for a change.
            query = query.as_string(cursor)
    watch.note(query)


def _watch_queries(raw: Any, note: Callable[[Any], None]) -> None:
    reference = weakref.ref(raw)

    kind = type(raw)

    def query(statement: Any) -> None:
        note(statement)
        kind.query(reference(), statement)

    raw.query = query


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
