"""Commands as an operator starts them: real processes, with real signals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


class Child:
    """
    ``python -m django <command> …``, in a session of its own; ``within`` is what starts it, if
    anything does.
    """

    def __init__(
        self,
        command: str,
        *args: str,
        env: Mapping[str, str],
        log: Path,
        within: Sequence[str] = (),
    ) -> None:
        self._command = " ".join((command, *args))
        self.log = log
        with log.open("wb") as output:  # A file: a full pipe would stop the child.
            self._process = subprocess.Popen(
                [*within, sys.executable, "-m", "django", command, *args],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def is_running(self) -> bool:
        return self.returncode is None

    def output(self) -> str:
        """What it has said so far, on both streams."""
        return self.log.read_text(errors="replace")

    def send_signal(self, signum: signal.Signals) -> None:
        """To this process alone, not to those it started."""
        self._process.send_signal(signum)

    def wait(self, timeout: float = 30) -> int:
        __tracebackhide__ = True
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self._command} did not end within {timeout:g} s:\n{self.output()}")

    def kill(self) -> None:
        """End it and all it started, now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def __str__(self) -> str:
        return f"$ {self._command}  # pid {self.pid}, returned {self.returncode}"
