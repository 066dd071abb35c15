"""A PostgreSQL primary and its standby, which a test may promote."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests import databases
from tests.helpers import eventually
from tests.system.faults.servers import PostgreSQLServer, django_settings, server


class Pair:
    """Two servers. ``primary`` and ``standby`` keep these names, also after a promotion."""

    def __init__(self, primary: PostgreSQLServer, standby: PostgreSQLServer) -> None:
        self.primary = primary
        self.standby = standby

    @property
    def settings(self) -> databases.Settings:
        """Return the entry for DATABASES that finds the server that can be written to."""
        return self._entry(self.primary, self.standby, "read-write")

    def for_workers(
        self, *servers: PostgreSQLServer, target_session_attrs: str = "read-write"
    ) -> dict[str, str]:
        """Return the environment of workers that try these servers in this order."""
        entry = self._entry(*servers or (self.primary, self.standby), target_session_attrs)
        names = {name: entry[name] for name in ("HOST", "OPTIONS")}
        return {"BGTASK_TEST_DATABASE": django_settings(self.primary, **names)}

    def await_standby(self) -> None:
        """Wait until the standby has all that the primary has."""
        ((lsn,),) = self.primary.execute("SELECT pg_current_wal_lsn()")
        caught_up = f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'"
        eventually(lambda: self.standby.execute(caught_up) == [(True,)], timeout=30)

    def make_synchronous(self) -> None:
        self.primary.execute(
            "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"
        )
        state = "SELECT sync_state FROM pg_stat_replication"
        eventually(lambda: self.primary.execute(state) == [("sync",)], timeout=30)

    @contextmanager
    def lagging(self) -> Iterator[None]:
        """Stop the replication within the block. What was not sent then is lost."""
        ((sender,),) = self.primary.execute("SELECT pid FROM pg_stat_replication")
        os.kill(sender, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(sender, signal.SIGKILL)

    def promote(self) -> None:
        self.standby.execute("SELECT pg_promote(true, 60)")

    def _entry(self, *what: Any) -> databases.Settings:
        *servers, target_session_attrs = what
        return {
            **self.primary.settings,
            "HOST": ",".join(str(one.directory) for one in servers),
            "OPTIONS": {"target_session_attrs": target_session_attrs},
        }


@contextmanager
def pair() -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(server("postgresql", durable=True))
        assert isinstance(primary, PostgreSQLServer)
        standby = PostgreSQLServer(stack.enter_context(databases.standby(primary.settings)))
        stack.callback(standby.close)
        yield Pair(primary, standby)
