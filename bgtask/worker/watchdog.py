"""Interrupt the worker's own statements when the database no longer answers."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask import clock
from bgtask.loggers import get_logger
from bgtask.worker.service import surviving

logger = get_logger(__name__)

CONNECT_TIMEOUT_SECONDS = 10  # Seconds that an attempt to connect may take.
CANCEL_TIMEOUT_SECONDS = 2.0  # Seconds that a request to cancel may take.
# If the server vanishes without closing the connection, TCP probes it only after two hours.
KEEPALIVE = {
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


def limit_waiting(alias: str) -> None:
    """
    Set the options by which connections of this process notice that the server is gone.

    Options that the project has set stay as they are.
    """
    connection = connections[alias]
    # The connections of all threads share this dictionary.
    options = connection.settings_dict["OPTIONS"]
    if connection.vendor in ("postgresql", "mysql"):
        options.setdefault("connect_timeout", CONNECT_TIMEOUT_SECONDS)
    if connection.vendor == "postgresql":
        for name, value in KEEPALIVE.items():
            options.setdefault(name, value)


@contextmanager
def watched(alias: str) -> Iterator[None]:
    """
    Let the watchdog interrupt statements of this thread that take too long, in this block.

    The block must contain only the worker's own statements, which are short. If one takes long,
    the connection may be half open, with no server at its other end. The thread would wait in the
    driver until the process is killed. Statements of tasks may be slow, so they are not watched.
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
        self.since = clock.monotonic()  # When the last statement began or ended.
        self.cancelled = False
        self.raw: Any = None
        self.socket = -1
        self._look()

    def note(
        self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any
    ) -> Any:
        self.since = clock.monotonic()
        self._look()
        try:
            return execute(sql, params, many, context)
        finally:
            self.since = clock.monotonic()
            self.cancelled = False

    def _look(self) -> None:
        """Remember the socket, because MariaDB's driver doesn't give it to another thread."""
        raw = self.connection.connection
        if raw is not self.raw:
            self.raw, self.socket = raw, -1
            # The connection may be broken, or a connection to SQLite, which has no socket.
            with contextlib.suppress(Exception):
                self.socket = raw.fileno()


_sections: dict[int, _Section] = {}  # By thread.


class Watchdog:
    """
    A thread that interrupts watched statements that take longer than ``patience`` seconds.

    The thread itself needs no database.
    """

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
                if clock.monotonic() > section.since + self._patience:
                    with surviving("A statement could not be interrupted."):
                        self._interrupt(section)

    def _interrupt(self, section: _Section) -> None:
        """
        Ask the server to cancel the statement; if it doesn't answer, close the socket.

        Cancel first, because the statement may wait for a lock. If the socket were only closed,
        the server would go on waiting for a client that is gone.
        """
        raw = section.raw
        if raw is None or raw is not section.connection.connection:
            return  # The thread is connecting, which has its own time limit.
        if not section.cancelled and _cancel(raw):
            section.cancelled = True
            return
        logger.warning(
            "The database has not answered for %g s; closing the connection.", self._patience
        )
        section.since = clock.monotonic()
        hang_up(section.socket)


def _cancel(raw: Any) -> bool:
    if not hasattr(raw, "cancel_safe"):  # Only psycopg has this method.
        return False
    try:
        raw.cancel_safe(timeout=CANCEL_TIMEOUT_SECONDS)
    except Exception:  # The driver raises its own errors here, not Django's.
        return False
    return True


def hang_up(descriptor: int) -> None:
    """
    Shut down the socket of a connection.

    A thread that waits for the socket then gets an error from the driver.
    """
    with (
        contextlib.suppress(OSError),  # The socket was closed meanwhile.
        socket.socket(fileno=os.dup(descriptor)) as connected,
    ):
        connected.shutdown(socket.SHUT_RDWR)
