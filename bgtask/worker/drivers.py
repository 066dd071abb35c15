"""Watch the statements that a driver's connection gets, including those without Django."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sqlite3
import weakref
from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Any, Protocol

# What a task may set on the driver's connection without a statement.
_SETTINGS: dict[str, Callable[[Any], Any]] = {
    "postgresql": attrgetter(
        "row_factory", "cursor_factory", "server_cursor_factory",
        "isolation_level", "read_only", "deferrable", "prepare_threshold", "pgconn.pipeline_status",
    ),
    "sqlite": attrgetter("row_factory", "text_factory", "isolation_level"),
    "mysql": attrgetter("cursorclass"),
}  # fmt: skip
_STATEMENTS = ("execute", "executemany", "executescript", "stream", "copy")  # Methods of cursors.
# Methods that change a session without a statement, or with one that doesn't go through query().
_CHANGES = {
    "sqlite": (
        "create_function", "create_aggregate", "create_window_function", "create_collation",
        "set_authorizer", "set_progress_handler", "set_trace_callback", "enable_load_extension",
        "load_extension", "setlimit", "setconfig", "deserialize",
    ),
    "mysql": ("select_db", "change_user", "set_character_set", "set_server_option"),
}  # fmt: skip


class Watch(Protocol):
    changed: bool

    def record(self, statement: Any) -> None: ...


def begin_watch(raw: Any, vendor: str, watch: Watch) -> bool:
    """
    Make the driver's connection report each statement to the watch.

    Return False if this driver's connections can't do that.
    """
    if hasattr(raw, "pgconn"):  # psycopg.
        raw.bgtask_watch = watch
        for name in ("cursor_factory", "server_cursor_factory"):
            factory = getattr(raw, name)
            if not issubclass(factory, _Watched):  # One from a pool may be.
                setattr(raw, name, _watched_cursor(factory))
        return True
    if isinstance(raw, _WatchedSQLite):
        raw.bgtask_watch = watch
        return True
    if vendor == "mysql" and hasattr(raw, "query"):
        _watch_mysql(raw, watch)
        return True
    return False


def settings_of(raw: Any, vendor: str) -> Any:
    """Return the settings that a task may change on the connection itself, for a comparison."""
    try:
        return _SETTINGS[vendor](raw)
    except Exception:  # Another driver.
        return None


def watch_sqlite(options: dict[str, Any]) -> None:
    """Set the options that make SQLite's driver create connections that can be watched."""
    factory: Any = options.get("factory", sqlite3.Connection)
    is_class = inspect.isclass(factory)
    if is_class and not issubclass(factory, _WatchedSQLite):
        options["factory"] = _watched_sqlite(factory)


def unwatch_sqlite(options: dict[str, Any]) -> None:
    """Undo ``watch_sqlite`` for connections to come."""
    factory: Any = options.get("factory")
    if not (inspect.isclass(factory) and issubclass(factory, _WatchedSQLite)):
        return
    own = factory.__bases__[-1]
    if own is sqlite3.Connection:
        del options["factory"]
    else:
        options["factory"] = own


class _Watched:
    """Base of the cursor classes that report what they execute."""


@lru_cache
def _watched_cursor(base: Any) -> Any:
    methods = {name: _recording(getattr(base, name)) for name in _STATEMENTS if hasattr(base, name)}
    return type(base.__name__, (_Watched, base), {**methods, "__qualname__": base.__qualname__})


def _recording(method: Any) -> Any:
    @functools.wraps(method)
    def recording(cursor: Any, statement: Any, *args: Any, **kwargs: Any) -> Any:
        watch = getattr(cursor.connection, "bgtask_watch", None)
        if watch is not None:
            watch.record(_text(statement, cursor))
        return method(cursor, statement, *args, **kwargs)

    return recording


def _text(statement: Any, cursor: Any) -> Any:
    if hasattr(statement, "as_string"):  # psycopg.sql.
        with contextlib.suppress(Exception):  # If it fails, assume a change.
            return statement.as_string(cursor)
    return statement


class _WatchedSQLite:
    """Base of the connection classes that report to a watch."""

    bgtask_watch: Watch | None = None


@lru_cache
def _watched_sqlite(base: Any) -> Any:
    class Connection(_WatchedSQLite, base):  # type: ignore[misc]
        def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
            if isinstance(factory, type):
                factory = _watched_cursor(factory)
            return super().cursor(factory)

        def execute(self, *args: Any) -> Any:
            return self.cursor().execute(*args)

        def executemany(self, *args: Any) -> Any:
            return self.cursor().executemany(*args)

        def executescript(self, *args: Any) -> Any:
            return self.cursor().executescript(*args)

    for name in _CHANGES["sqlite"]:
        if hasattr(base, name):
            setattr(Connection, name, _changing(getattr(base, name)))
    return Connection


def _changing(method: Any) -> Any:
    @functools.wraps(method)
    def changing(connection: Any, *args: Any, **kwargs: Any) -> Any:
        if connection.bgtask_watch is not None:
            connection.bgtask_watch.changed = True
        return method(connection, *args, **kwargs)

    return changing


def _watch_mysql(raw: Any, watch: Watch) -> None:
    """
    Add methods to the connection that report to the watch.

    They hold only a weak reference to the connection, so that it is freed after its last use.
    """
    kind, reference = type(raw), weakref.ref(raw)

    def query(statement: Any) -> None:
        watch.record(statement)
        kind.query(reference(), statement)

    def changing(name: str) -> Callable[..., Any]:
        def change(*args: Any, **kwargs: Any) -> Any:
            watch.changed = True
            return getattr(kind, name)(reference(), *args, **kwargs)

        return change

    raw.query = query
    for name in _CHANGES["mysql"]:
        if hasattr(kind, name):
            setattr(raw, name, changing(name))
