"""Find out whether a connection pooler is in between, and whether notifications pass it."""

from __future__ import annotations

import secrets
import time
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask.db.internals import translated_errors
from bgtask.worker.watchdog import watched

ROUNDS = 5
ECHO_SECONDS = 2.0
FORGET_TRIES = 50
FORGET_PAUSE_SECONDS = 0.02


def is_direct(connection: BaseDatabaseWrapper) -> bool:
    """
    Return whether no pooler is between this process and its PostgreSQL server.

    PostgreSQL tells a client the process id of its session when the client connects. A pooler
    tells the client a number that it made up.
    """
    return backend_pid(connection) == told_pid(connection)


def backend_pid(connection: BaseDatabaseWrapper) -> int:
    """Return the process id of the server's session that runs a statement now."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def told_pid(connection: BaseDatabaseWrapper) -> int:
    """Return the process id that the server or the pooler sent when the connection was made."""
    return int(connection.connection.info.backend_pid)


class NotHeard(Exception):
    """Notifications don't arrive on this connection; the message says why."""


def check_notifications(listener: BaseDatabaseWrapper, alias: str) -> None:
    """
    Raise NotHeard unless ``listener`` receives the notifications that are sent on ``alias``.

    A direct connection of the same alias needs no proof.
    """
    direct = is_direct(listener)
    if direct and listener.alias == alias:
        return
    if not direct and _shares_session(listener, alias):
        raise NotHeard(_pooled(listener))
    if not _hears(listener, alias):
        raise NotHeard(
            f"the database {listener.alias!r} receives no notifications of {alias!r}"
            if direct
            else _pooled(listener)
        )


def _pooled(listener: BaseDatabaseWrapper) -> str:
    return (
        f"the database {listener.alias!r} is behind a connection pooler that gives clients no "
        "session of their own"
    )


def _shares_session(listener: BaseDatabaseWrapper, alias: str) -> bool:
    """
    Return whether the pooler also gives the session of ``listener`` to other clients.

    Unlike LISTEN, this check leaves nothing behind on the server. The two connections never wait
    for each other, because neither keeps a transaction open.
    """
    ours: set[int] = set()
    theirs: set[int] = set()
    for _ in range(ROUNDS):
        ours.add(backend_pid(listener))
        with watched(alias):
            theirs.add(backend_pid(connections[alias]))
    return len(ours) > 1 or not ours.isdisjoint(theirs)


def _hears(listener: BaseDatabaseWrapper, alias: str) -> bool:
    """
    Return whether a notification that is sent on ``alias`` arrives within ECHO_SECONDS.

    While it waits, ``listener`` runs no statement. A pooler in transaction mode then has no server
    connection assigned to it, and can't pass a notification on by accident. The channel is used
    for this proof only. Nothing is sent on it later, even if a session stays registered.
    """
    channel = f"bgtask_echo_{secrets.token_hex(8)}"
    raw = listener.connection
    with translated_errors(listener):
        with raw.transaction():
            pid = _pid(raw)
            raw.execute(f"LISTEN {channel}")
        try:
            with watched(alias), connections[alias].cursor() as cursor:
                cursor.execute("SELECT pg_notify(%s, '')", [channel])
            return any(told.channel == channel for told in raw.notifies(timeout=ECHO_SECONDS))
        finally:
            _forget(raw, channel, pid)


def _forget(raw: Any, channel: str, pid: int) -> None:
    """Run UNLISTEN in the session that ran LISTEN. It may take several tries to get it."""
    for _ in range(FORGET_TRIES):
        with raw.transaction():
            raw.execute(f"UNLISTEN {channel}")
            found = _pid(raw)
        if found == pid:
            return
        time.sleep(FORGET_PAUSE_SECONDS)


def _pid(raw: Any) -> int:
    return int(raw.execute("SELECT pg_backend_pid()").fetchone()[0])
