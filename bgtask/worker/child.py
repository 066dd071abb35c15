"""A worker process under a supervisor, and the pipe between the two."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from bgtask import clock

# What a child reports, besides the ids of its workers.
NO_WORKER = 0  # The child waits for the database, and has no worker now.
EXITING = "left"  # The child has deregistered its worker, and may be replaced.
COMPLETED = "over"  # The child has done all of its work, and needs no replacement.
REFUSED = "refused"  # The child can't work with this database, and a replacement couldn't either.


@dataclass(slots=True)
class Child:
    """
    A child process, as its supervisor sees it.

    The child reports the id of its worker at each heartbeat, and at its end the reason for it.
    """

    process: subprocess.Popen[bytes]
    pipe: int  # The end from which the supervisor reads the reports.
    started: float
    heard: float
    unread: bytes = b""
    workers: set[int] = field(default_factory=set)
    exit_message: str = ""
    kill_reason: str = ""

    def listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while said := os.read(self.pipe, 4096):
                self.heard = clock.monotonic()
                *words, self.unread = (self.unread + said).split(b"\n")
                for word in words:
                    if word.isdigit():
                        self.workers.update({int(word)} - {NO_WORKER})
                    else:
                        self.exit_message = word.decode()

    def silence(self) -> float:
        return clock.monotonic() - self.heard

    def close(self) -> None:
        os.close(self.pipe)
        if self.process.stdin is not None:
            self.process.stdin.close()


def reporter(writer: int) -> Callable[[object], None]:
    """
    Return the function by which a child reports to its parent.

    The child reports the id of its worker, as a sign that it is alive, or the reason of its end.
    """

    def report(word: object) -> None:
        # If the parent is gone, leave_with_parent() stops this process.
        with contextlib.suppress(OSError):
            os.write(writer, f"{word}\n".encode())

    return report


def leave_with_parent(stop: Callable[[], None]) -> None:
    """Call ``stop`` when the parent of this process closes our standard input, or is gone."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        stop()

    threading.Thread(target=wait, name="bgtask-parent", daemon=True).start()
