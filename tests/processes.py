"""Start commands as an operator does: real processes, with real signals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


class Child:
    """
    A process ``python -m django <command> …`` in a session of its own.

    ``within`` is a command line that starts the process, such as that of unshare.
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
        with log.open("wb") as output:  # Not a pipe: a full pipe would stop the child.
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
        """Return what the process has written so far, on both streams."""
        return self.log.read_text(errors="replace")

    def send_signal(self, signum: signal.Signals) -> None:
        """Send the signal to this process only, not to those it started."""
        self._process.send_signal(signum)

    def wait(self, timeout: float = 30) -> int:
        __tracebackhide__ = True
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self._command} did not end within {timeout:g} s:\n{self.output()}")

    def kill(self) -> None:
        """Kill the process and its descendants, also those with sessions of their own (workers)."""
        family = descendants(self.pid) if self.is_running() else []
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        # Wait, because these processes may hold locks until they have ended.
        while any(map(is_running, family)):
            time.sleep(0.01)

    def __str__(self) -> str:
        return f"$ {self._command}  # pid {self.pid}, returned {self.returncode}"


def descendants(pid: int) -> list[int]:
    """Return the ids of the processes that this one started, and of their descendants."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = list(children.get(pid, ()))
    for child in found:
        found.extend(children.get(child, ()))
    return found


def is_running(pid: int) -> bool:
    try:
        state = Path("/proc", str(pid), "stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def open_files(pid: int) -> list[str]:
    """Return what each descriptor of a process is: a path, ``pipe:[7]``, ``socket:[8]``."""
    found = []
    for descriptor in Path("/proc", str(pid), "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # The file was closed meanwhile.
            found.append(os.readlink(descriptor))
    return found
