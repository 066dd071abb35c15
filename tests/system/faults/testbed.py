"""A database and worker processes in which tests cause faults."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests import execution_log as log_module
from tests.execution_log import ExecutionLog
from tests.processes import ROOT, Child, open_files
from tests.system.faults.proxy import Proxy
from tests.system.faults.servers import Server, django_settings

# Long enough for heartbeats of a busy machine, short enough to wait until a lease has ended.
BGTASK = {"LEASE": 3, "HEARTBEAT_INTERVAL": 0.5, "GRACE_PERIOD": 3}
APPS = "tests.system.faults"


class Testbed:
    """
    A database server and its workers.

    ``testbed.worker("--threads=2", LEASE=10)`` starts a worker process on this server, through a
    proxy if there is one. All processes are killed when the testbed is closed.
    """

    __test__ = False  # pytest would collect it for its name.

    def __init__(self, server: Server, directory: Path, proxy: Proxy | None = None) -> None:
        self.server = server
        self.proxy = proxy
        self.directory = directory
        self.execution_log = ExecutionLog(directory / "execution_log")
        self.children: list[Child] = []
        self.deaths: dict[int, list[float]] = {}
        # For functions that this process itself calls, such as those of an operator.
        os.environ[log_module.PATH] = str(self.execution_log.path)

    def env(self, **settings: Any) -> dict[str, str]:
        wire = {"HOST": "127.0.0.1", "PORT": str(self.proxy.port)} if self.proxy else {}
        return {
            **os.environ,
            "BGTASK_TEST_DATABASE": django_settings(self.server, **wire),
            "BGTASK_TEST_SETTINGS": json.dumps({**BGTASK, **settings}),
            "BGTASK_TEST_APPS": APPS,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONFAULTHANDLER": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
            log_module.PATH: str(self.execution_log.path),
        }

    def worker(self, *args: str, env: dict[str, str] | None = None, **settings: Any) -> Child:
        return self.command("process_tasks", "--sleep=0.5", *args, env=env, **settings)

    def command(
        self, name: str, *args: str, env: dict[str, str] | None = None, **settings: Any
    ) -> Child:
        log = self.directory / f"{name}-{len(self.children)}.log"
        child = Child(name, *args, env={**self.env(**settings), **(env or {})}, log=log)
        self.children.append(child)
        return child

    def kill(self, pid: int) -> None:
        """Kill a process by SIGKILL, and note when."""
        if self.is_ours(pid):
            self.deaths.setdefault(pid, []).append(time.monotonic())
            os.kill(pid, signal.SIGKILL)

    def send(self, pids: Iterable[int], signum: signal.Signals) -> None:
        for pid in pids:
            if self.is_ours(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signum)

    def is_ours(self, pid: int) -> bool:
        """Return whether this testbed started the process, because ids of processes are reused."""
        mark = f"{log_module.PATH}={self.execution_log.path}".encode()
        try:
            return mark in Path("/proc", str(pid), "environ").read_bytes().split(b"\0")
        except OSError:
            return False

    def output(self) -> str:
        return "\n".join(f"{child}\n{child.output()[-3_000:]}" for child in self.children)

    def close(self) -> None:
        for process in Path("/proc").glob("[0-9]*"):
            if self.is_ours(pid := int(process.name)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for child in self.children:
            child.wait()


def figures(pid: int) -> dict[str, int]:
    """Return how many threads, open files and kilobytes a process holds now."""
    status = dict(
        line.split(":", 1) for line in Path("/proc", str(pid), "status").read_text().splitlines()
    )
    return {
        "threads": int(status["Threads"]),
        "files": len(open_files(pid)),
        "kilobytes": int(status["VmRSS"].split()[0]),
    }


@contextlib.contextmanager
def proxied(server: Server) -> Iterator[Proxy | None]:
    """Yield a proxy in front of the database, or None if it has no server (SQLite)."""
    if not server.has_server:
        yield None
        return
    proxy = Proxy(server.socket)  # type: ignore[attr-defined]
    try:
        yield proxy
    finally:
        proxy.close()
