"""A database and worker processes that are there to suffer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests import ledger as ledger_module
from tests.faults.proxy import Proxy
from tests.faults.servers import Server, django_settings
from tests.ledger import Ledger
from tests.processes import ROOT, Child, open_files

# Long enough for a busy machine to send its signs of life, short enough to wait for its end.
BGTASK = {"LEASE": 3, "HEARTBEAT_INTERVAL": 0.5, "GRACE_PERIOD": 3}
APPS = "tests.faults"


class Stage:
    """
    ``stage.worker("--threads=2", LEASE=10)`` starts a worker process on this server; with a proxy,
    by way of it. All are killed when the stage is closed.
    """

    def __init__(self, server: Server, directory: Path, proxy: Proxy | None = None) -> None:
        self.server = server
        self.proxy = proxy
        self.directory = directory
        self.ledger = Ledger(directory / "ledger")
        self.children: list[Child] = []
        self.deaths: dict[int, list[float]] = {}
        # For what is called in this very process, as the operator is.
        os.environ[ledger_module.PATH] = str(self.ledger.path)

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
            ledger_module.PATH: str(self.ledger.path),
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
        """SIGKILL, and note when."""
        if self.is_ours(pid):
            self.deaths.setdefault(pid, []).append(time.monotonic())
            os.kill(pid, signal.SIGKILL)

    def send(self, pids: Iterable[int], signum: signal.Signals) -> None:
        for pid in pids:
            if self.is_ours(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signum)

    def is_ours(self, pid: int) -> bool:
        """Whether this stage started it: where processes come and go, so do their numbers."""
        mark = f"{ledger_module.PATH}={self.ledger.path}".encode()
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
    """What a process holds by now: threads, open files, kilobytes."""
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
    """A proxy in front of it, if it is a server."""
    if not server.has_server:
        yield None
        return
    proxy = Proxy(server.socket)  # type: ignore[attr-defined]
    try:
        yield proxy
    finally:
        proxy.close()
