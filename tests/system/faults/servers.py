"""
Database servers that a test can stop, kill, freeze and make read-only: they aren't shared.

The module is long because each database is started, stopped and frozen in its own way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import databases
from tests.databases import Settings
from tests.processes import is_running


class Server:
    """A database of one test. Methods that need a server do nothing on SQLite."""

    vendor = "sqlite"
    has_server = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def stop(self, signum: signal.Signals = signal.SIGINT) -> None: ...

    def start(self) -> None: ...

    def crash(self) -> None:
        self.stop(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def connection_ids(self) -> list[int]:
        """Return the server's ids of the connections of other processes."""
        return []

    def cut(self, connection_id: int) -> None: ...

    def connection_of(self, words: str) -> int | None:
        """Return the id of the connection that executes a statement with these words, or None."""
        return None

    @contextmanager
    def crowded(self) -> Iterator[None]:
        yield

    def cut_all(self) -> int:
        """Cut all connections of others, and return how many there were."""
        ids = self.connection_ids()
        for connection_id in ids:
            self.cut(connection_id)
        return len(ids)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Refuse writes within the block, as a standby does before it is promoted."""
        yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Keep a transaction open that has read."""
        connection = sqlite3.connect(self.settings["NAME"], isolation_level=None)
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM bgtask_task").fetchall()
        try:
            yield
        finally:
            connection.close()

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """Keep a transaction open that may write. Only SQLite has a single writer."""
        connection = sqlite3.connect(self.settings["NAME"], isolation_level=None, timeout=30)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.close()

    def close(self) -> None: ...


class _Daemon(Server):
    """A server that is stopped by signals, and started again by its own command line."""

    has_server = True
    fast: signal.Signals  # Ends the server without waiting for its clients.

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._process: subprocess.Popen[bytes] | None = None  # Set once start() ran.
        self._first: int | None = int(self.pid_file.read_text().split()[0])
        process = Path("/proc", str(self._first))
        self._command = process.joinpath("cmdline").read_bytes().decode().split("\0")[:-1]
        self._cwd = os.readlink(process / "cwd")
        self._uid = process.stat().st_uid

    @property
    def directory(self) -> Path:
        raise NotImplementedError

    @property
    def pid_file(self) -> Path:
        raise NotImplementedError

    def stop(self, signum: signal.Signals | None = None) -> None:
        if self._process is not None:
            self._process.send_signal(signum or self.fast)
            self._process.wait()
        elif (pid := self._first) is not None:
            self._first = None
            os.kill(pid, signum or self.fast)
            while is_running(pid):
                time.sleep(0.02)
        # A killed server leaves its pid file, and another process may have that id by now.
        self.pid_file.unlink(missing_ok=True)

    def start(self) -> None:
        deadline = time.monotonic() + 60
        clean = {name: value for name, value in os.environ.items() if "BGTASK" not in name}
        while True:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                user=self._uid,
                env=clean,  # So Testbed.is_ours() is false for it.
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            while self._process.poll() is None:
                if self._answers():
                    return
                time.sleep(0.05)
            # After a crash, children of the old server may still hold what the new one needs.
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self._command[0]} does not start any more.")
            time.sleep(0.1)

    def _connect(self) -> Any:
        raise NotImplementedError

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except Exception:
            return False
        return True

    def execute(self, *statements: str) -> list[Any]:
        """Execute statements as the administrator, and return the rows of the last one."""
        connection = self._connect()
        try:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        connection = self._connect()
        cursor = connection.cursor()
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ" if self.vendor == "postgresql"
                       else "START TRANSACTION WITH CONSISTENT SNAPSHOT")  # fmt: skip
        cursor.execute("SELECT count(*) FROM bgtask_task")
        cursor.fetchall()
        try:
            yield
        finally:
            with contextlib.suppress(Exception):  # The server may be gone.
                connection.close()

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        yield

    def close(self) -> None:
        if self._process is not None:
            self.stop()


class PostgreSQLServer(_Daemon):
    vendor = "postgresql"
    fast = signal.SIGINT

    @property
    def directory(self) -> Path:
        return Path(self.settings["HOST"])

    @property
    def pid_file(self) -> Path:
        return self.directory / "postmaster.pid"

    @property
    def socket(self) -> Path:
        return self.directory / ".s.PGSQL.5432"

    def _connect(self) -> Any:
        import psycopg

        return psycopg.connect(
            host=self.settings["HOST"], user=self.settings["USER"], dbname=self.settings["NAME"],
            autocommit=True, connect_timeout=5,
        )  # fmt: skip

    def connection_ids(self) -> list[int]:
        rows = self.execute(
            "SELECT pid FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return [pid for (pid,) in rows]

    def cut(self, connection_id: int) -> None:
        self.execute(f"SELECT pg_terminate_backend({connection_id})")

    def connection_of(self, words: str) -> int | None:
        rows = self.execute(
            "SELECT pid FROM pg_stat_activity WHERE state = 'active' "
            f"AND query LIKE '%{words}%' AND pid <> pg_backend_pid()"
        )
        return rows[0][0] if rows else None

    @contextmanager
    def crowded(self) -> Iterator[None]:
        """Allow no connections but those of administrators."""
        self.execute(f"ALTER DATABASE {self.settings['NAME']} CONNECTION LIMIT 0")
        self.cut_all()
        try:
            yield
        finally:
            self.execute(f"ALTER DATABASE {self.settings['NAME']} CONNECTION LIMIT -1")

    @contextmanager
    def read_only(self) -> Iterator[None]:
        name = self.settings["NAME"]
        self.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        self.cut_all()
        try:
            yield
        finally:
            self.execute(
                "SET default_transaction_read_only = off",
                f"ALTER DATABASE {name} RESET default_transaction_read_only",
            )
            self.cut_all()


class MariaDBServer(_Daemon):
    vendor = "mysql"
    fast = signal.SIGTERM

    @property
    def directory(self) -> Path:
        return Path(self.settings["HOST"]).parent

    @property
    def pid_file(self) -> Path:
        return self.directory / "server.pid"

    @property
    def socket(self) -> Path:
        return Path(self.settings["HOST"])

    def _connect(self) -> Any:
        import MySQLdb

        return MySQLdb.connect(
            unix_socket=self.settings["HOST"], user=self.settings["USER"],
            database=self.settings["NAME"], autocommit=True, connect_timeout=5,
        )  # fmt: skip

    def connection_ids(self) -> list[int]:
        rows = self.execute(
            "SELECT id FROM information_schema.processlist "
            "WHERE id <> connection_id() AND command <> 'Daemon' AND user <> 'event_scheduler'"
        )
        return [id_ for (id_,) in rows]

    def cut(self, connection_id: int) -> None:
        with contextlib.suppress(Exception):  # The connection may have ended.
            self.execute(f"KILL CONNECTION {connection_id}")

    def connection_of(self, words: str) -> int | None:
        rows = self.execute(
            "SELECT id FROM information_schema.processlist "
            f"WHERE info LIKE '%{words}%' AND id <> connection_id()"
        )
        return rows[0][0] if rows else None

    @contextmanager
    def crowded(self) -> Iterator[None]:
        """Allow no connections but those of administrators."""
        administrator = self._connect()
        cursor = administrator.cursor()
        cursor.execute("SELECT @@max_connections")
        ((before,),) = cursor.fetchall()
        cursor.execute("SET GLOBAL max_connections = 10")  # MariaDB's minimum.
        cursor.execute("SELECT id FROM information_schema.processlist WHERE user = 'worker'")
        for (connection_id,) in cursor.fetchall():
            with contextlib.suppress(Exception):  # The connection may have ended.
                cursor.execute(f"KILL CONNECTION {connection_id}")
        crowd: list[Any] = []
        with contextlib.suppress(Exception):  # Until the limit is reached.
            while len(crowd) < 12:
                crowd.append(self._connect())
        try:
            yield
        finally:
            cursor.execute(f"SET GLOBAL max_connections = {before}")
            for connection in (*crowd, administrator):
                connection.close()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        # An administrator may still write to a read-only server, so workers use another account.
        self.execute("SET GLOBAL read_only = 1")
        try:
            yield
        finally:
            self.execute("SET GLOBAL read_only = 0")


@contextmanager
def server(vendor: str, *, durable: bool = False) -> Iterator[Server]:
    """Yield a database by its Django vendor name. If ``durable``, it syncs as in production."""
    with contextlib.ExitStack() as stack:
        found: Server
        if vendor == "sqlite":
            found = Server(stack.enter_context(databases.sqlite(durable=durable)))
        elif vendor == "postgresql":
            found = PostgreSQLServer(stack.enter_context(databases.postgresql(durable=durable)))
            found.execute(
                "CREATE ROLE worker LOGIN",
                "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO worker",
                "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO worker",
            )
        else:
            found = MariaDBServer(stack.enter_context(databases.mariadb(durable=durable)))
            found.execute(
                "CREATE USER IF NOT EXISTS worker@localhost",
                "GRANT ALL ON *.* TO worker@localhost",
                "REVOKE SUPER, READ_ONLY ADMIN ON *.* FROM worker@localhost",
            )
        stack.callback(found.close)
        yield found


def django_settings(server: Server, **changes: Any) -> str:
    """
    Return the entry for DATABASES by which a worker finds the server, as JSON.

    Workers are no administrators, who may connect and write where others must not.
    """
    user = {"USER": "worker"} if server.has_server else {}
    return json.dumps({**server.settings, **user, **changes})
