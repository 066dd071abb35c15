"""No bookkeeping waits for ever for a database that has fallen silent."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("bgtask")

CONNECT_TIMEOUT_SECONDS = 10  # Seconds that an attempt to connect may take.
CANCEL_TIMEOUT_SECONDS = 2.0  # Seconds that a request to cancel may take.
# Where the other end has vanished without a word, TCP itself would ask after two hours only.
KEEPALIVE = {
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


def limit_waiting(alias: str) -> None:
    """In this process, and where the project says nothing else, connections tell of their end."""
    connection = connections[alias]
    # One dictionary for the connections of all threads.
    options = connection.settings_dict["OPTIONS"]
    if connection.vendor in ("postgresql", "mysql"):
        options.setdefault("connect_timeout", CONNECT_TIMEOUT_SECONDS)
    if connection.vendor == "postgresql":
        for name, value in KEEPALIVE.items():
            options.setdefault(name, value)


@contextmanager
def watched(alias: str) -> Iterator[None]:
    """
    What this thread does in here is bookkeeping: each statement is short, or never to end.

    A connection may be half open, with nobody at its other end, and the thread would wait in the
    driver until the process is killed. Statements of tasks may take their time; they are not
    watched.
    """
    me = threading.get_ident()
    if me in _sections:
        yield
        return
    connection = connections[alias]
    section = _sections[me] = _Section(connection)
    try:
        with connection.execute_wrapper(section.note):
            yield
    finally:
        del _sections[me]


class _Section:
    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection
        self.since = time.monotonic()  # … which nothing has been heard.
        self.cancelled = False
        self.raw: Any = None
        self.socket = -1
        self._look()

    def note(
        self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any
    ) -> Any:
        self.since = time.monotonic()
        self._look()
        try:
            return execute(sql, params, many, context)
        finally:
            self.since = time.monotonic()
            self.cancelled = False

    def _look(self) -> None:
        """Remember the socket now: MariaDB's driver tells it to no other thread."""
        raw = self.connection.connection
        if raw is not self.raw:
            self.raw, self.socket = raw, -1
            with contextlib.suppress(Exception):  # Broken, or SQLite's, which has none.
                self.socket = raw.fileno()


_sections: dict[int, _Section] = {}  # By thread.


class Watchdog:
    """A thread that needs no database. What takes longer than ``patience`` is cut short."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bgtask-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(self._patience / 4):
            for section in list(_sections.values()):
                if time.monotonic() > section.since + self._patience:
                    self._interrupt(section)

    def _interrupt(self, section: _Section) -> None:
        """
        First ask the server to give up: where it waits for a lock, it would do so on and on for
        somebody who has gone. If it does not even hear that, hang up.
        """
        raw = section.raw
        if raw is None or raw is not section.connection.connection:
            return  # Connecting, which has its own limit.
        if not section.cancelled and _cancel(raw):
            section.cancelled = True
            return
        logger.warning("The database has not answered for %g s; hanging up.", self._patience)
        section.since = time.monotonic()
        hang_up(section.socket)


def _cancel(raw: Any) -> bool:
    if not hasattr(raw, "cancel_safe"):  # psycopg has it.
        return False
    try:
        raw.cancel_safe(timeout=CANCEL_TIMEOUT_SECONDS)
    except Exception:  # The driver's own errors, not Django's.
        return False
    return True


def hang_up(descriptor: int) -> None:
    """Shut the socket under whoever waits on it: that ends the wait, with the driver's error."""
    with (
        contextlib.suppress(OSError),  # Closed meanwhile.
        socket.socket(fileno=os.dup(descriptor)) as connected,
    ):
        connected.shutdown(socket.SHUT_RDWR)
