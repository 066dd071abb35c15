"""Start the processes of the demo, and stop them before the demo ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType

from django.core.management import CommandError

from example_project.members.conf import settings

STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if os.name == "posix" else [])]
PATIENCE = 15.0  # Seconds that a process gets to end by itself.


class Child:
    """A process that runs a ``manage.py`` command and writes to a log of its own."""

    def __init__(self, name: str, *arguments: str, log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603  # Nothing in it comes from outside.
                [sys.executable, str(settings.BASE_DIR / "manage.py"), *arguments],
                env={**os.environ, "SITE_DIR": str(settings.SITE_DIR), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C must only reach the demo, which then stops its processes in order.
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise CommandError with the last line of the log if the process has ended."""
        status = self._process.poll()
        if status is not None:
            words = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            raise CommandError(
                f"{self.name} ended unexpectedly, with status {status}. "
                f"{' '.join([*words, 'More in'])} {self.log}"
            )

    def stop(self) -> int:
        """Ask the process to end, and kill it if it does not; return its exit status."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()


class Children:
    """Processes of the demo. At the end of the block, those that still run are stopped."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def start(self, name: str, *arguments: str, log: Path) -> Child:
        with uninterrupted():  # So that a process that was just started is not forgotten.
            child = Child(name, *arguments, log=log)
            self._children.append(child)
        return child

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with uninterrupted():
            while self._children:
                self._children.pop().stop()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C, and the other signals to stop, until this block has ended."""
    pending = []

    def note(signum: int, frame: FrameType | None) -> None:
        pending.append(signum)

    handlers = {signum: signal.signal(signum, note) for signum in STOP_SIGNALS}
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    if pending:
        raise KeyboardInterrupt


def stop_as_by_ctrl_c() -> None:
    """Treat SIGTERM, and a terminal that is closed, like Ctrl-C."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.default_int_handler)


def ignore_stop_signals() -> None:
    """Ignore these signals once all is stopped and the process is about to end."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
