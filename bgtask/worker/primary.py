"""Keep the connections of a worker on one PostgreSQL server: the newest primary."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import (
    Error,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    connections,
)
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from bgtask import clock
from bgtask.db import Server, operations_for
from bgtask.db.internals import separate_connection
from bgtask.loggers import get_logger
from bgtask.worker.watchdog import hang_up

logger = get_logger(__name__)

QUIET_SECONDS = 60.0  # Refusals that follow each other sooner belong to one incident.

STANDBY = (
    "The connection leads to a standby, which can't be written to. Point the workers at the "
    "primary, or set target_session_attrs=read-write."
)
STALE = (
    "The connection leads to a former primary (timeline %d; timeline %d was seen before). Its "
    "writes are lost to the new primary. Stop that server, or rebuild it as a standby."
)
OTHER = (
    "The connection leads to another cluster (system identifier %d; it was %d before). Restart "
    "the workers if they should go on there."
)


class Primary:
    """
    Compare the server of each new connection with those seen before in this process.

    A former primary that is reachable again would accept writes that the new one never sees, and
    a worker whose threads are connected to both would lose tasks on either. So a connection to a
    former primary, a standby or another cluster is closed, and its user gets an
    OperationalError, as in any outage. When a newer primary is seen, the sockets of connections to
    the older one are shut down, whichever thread uses them.

    Only connections to the queue's database are compared: another one may be a replica on purpose.
    """

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._is_known = True  # False once a server can't identify itself.
        self._lock = threading.Lock()
        self._newest: Server | None = None
        self._servers: weakref.WeakKeyDictionary[Any, Server] = weakref.WeakKeyDictionary()
        self._last_refusals: dict[str, float] = {}  # By fault.
        self._refused = False
        self._stale_since: float | None = None

    @contextmanager
    def comparing(self) -> Iterator[None]:
        """Compare each new connection that this process makes inside this context."""
        connection_created.connect(self._connected, weak=False)
        try:
            connection = connections[self._alias]
            if connection.connection is not None:
                with contextlib.suppress(Error):  # The next connection raises it again.
                    self._check(connection)
            yield
        finally:
            connection_created.disconnect(self._connected)

    @property
    def refused(self) -> bool:
        """Whether the last connection was refused, so that the next ones may be as well."""
        return self._refused

    def stale_for(self) -> float:
        """Return for how many seconds only former primaries or other clusters were reached."""
        since = self._stale_since
        return 0.0 if since is None else clock.monotonic() - since

    def try_again(self) -> None:
        """Make a connection to see if it's still refused; raise OperationalError if it is."""
        connection = separate_connection(self._alias)
        try:
            connection.ensure_connection()
        finally:
            connection.close()

    def _connected(self, connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
        if connection.alias == self._alias and self._is_known:
            self._check(connection)

    def _check(self, connection: BaseDatabaseWrapper) -> None:
        """Close the connection and raise OperationalError if it leads to the wrong server."""
        try:
            server = operations_for(connection).server(connection)
        except (ProgrammingError, NotSupportedError, InternalError) as error:
            # A managed PostgreSQL may not allow or know these functions.
            self._is_known = False
            logger.debug("Not comparing the servers behind %r: %s", self._alias, error)
            if not connection.get_autocommit():
                connection.rollback()
            return
        except BaseException:
            _close(connection)  # It must not be used without a comparison.
            raise
        if server is None:
            self._is_known = False
            return
        with self._lock:
            fault = self._fault_of(server)
            self._note(fault, server)
            if fault is None:
                self._servers[connection.connection] = server
                older = [raw for raw, known in self._servers.items() if known != server]
        if fault is not None:
            _close(connection)
            raise OperationalError(fault)
        for raw in older:
            with contextlib.suppress(Exception):  # The driver's error: it is closed by now.
                hang_up(raw.fileno())

    def _fault_of(self, server: Server) -> str | None:
        newest = self._newest
        if server.is_standby:
            return STANDBY
        if newest is None or server == newest:
            return None
        if server.cluster != newest.cluster:
            return OTHER % (server.cluster, newest.cluster)
        if server.timeline < newest.timeline:
            return STALE % (server.timeline, newest.timeline)
        return None

    def _note(self, fault: str | None, server: Server) -> None:
        self._refused = fault is not None
        if fault is None:
            self._newest, self._stale_since = server, None
            return
        now = clock.monotonic()
        if not server.is_standby and self._stale_since is None:
            self._stale_since = now
        if now > self._last_refusals.get(fault, -QUIET_SECONDS) + QUIET_SECONDS:
            logger.error("Refused a connection to the database %r. %s", self._alias, fault)
        self._last_refusals[fault] = now


def _close(connection: BaseDatabaseWrapper) -> None:
    with contextlib.suppress(Exception):
        connection.connection.close()  # So that the driver's pool doesn't keep it.
    with contextlib.suppress(Exception):
        connection.close()
