"""Start a PgBouncer in front of a PostgreSQL server of this suite."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.databases import Settings, private_directory, program
from tests.system.faults.servers import Server

PORT = 6432  # No conflict: the socket is in a directory of its own.
START_SECONDS = 30.0


class PgBouncer:
    """
    A pooler. ``start(mode)`` starts it and ``stop()`` ends it, also several times.

    ``settings`` is the entry for DATABASES by which clients find it.
    """

    def __init__(self, server: Server, directory: Path) -> None:
        self._program = program("pgbouncer", "pgbouncer")
        self._server = server
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        # PgBouncer refuses to run as root, and only the owner of the server may use its socket.
        owner = Path(server.settings["HOST"]).stat().st_uid
        self._user = owner if os.geteuid() == 0 else None
        os.chown(directory, owner, -1)
        self.settings: Settings = {**server.settings, "HOST": str(directory), "PORT": str(PORT)}

    @property
    def log(self) -> str:
        return self._log_file.read_text(errors="replace")

    @property
    def _log_file(self) -> Path:
        return self._directory / "log"

    def start(self, mode: str, *, pool_size: int = 20) -> PgBouncer:
        configuration = self._directory / "pgbouncer.ini"
        target = self._server.settings
        configuration.write_text(
            f"""
[databases]
{target["NAME"]} = host={target["HOST"]} dbname={target["NAME"]} user=worker
[pgbouncer]
listen_addr =
listen_port = {PORT}
unix_socket_dir = {self._directory}
auth_type = any
pool_mode = {mode}
default_pool_size = {pool_size}
pidfile = {self._directory}/server.pid
"""
        )
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, str(configuration)],
                user=self._user,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PgBouncer did not start:\n{self.log}")
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """End the pooler at once, without waiting for clients."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            for name in ("server.pid", f".s.PGSQL.{PORT}"):
                (self._directory / name).unlink(missing_ok=True)

    def _answers(self) -> bool:
        import psycopg

        with suppress(psycopg.Error):
            psycopg.connect(conninfo(self.settings), connect_timeout=5).close()
            return True
        return False


@contextmanager
def pgbouncer(server: Server) -> Iterator[PgBouncer]:
    """Yield a pooler. Raise ServerMissing if this machine has no PgBouncer."""
    with private_directory("pgbouncer") as directory:
        pooler = PgBouncer(server, directory)
        try:
            yield pooler
        finally:
            pooler.stop()


def conninfo(settings: Settings) -> str:
    port = settings.get("PORT", "5432")
    return f"host={settings['HOST']} port={port} dbname={settings['NAME']} user={settings['USER']}"
