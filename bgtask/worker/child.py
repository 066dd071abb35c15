"""A process under a supervisor, and the pipe between the two."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

# What it says beside the ids of its workers.
NO_WORKER = 0  # Not yet, or not any more: it waits for the database.
EXITING = "left"  # It has signed off, and may be replaced …
COMPLETED = "over"  # … or not: it has done all that it was to do.
REFUSED = "refused"  # It can't work with this database, and a replacement couldn't either.


@dataclass(slots=True)
class Child:
    """As its supervisor sees it: which worker it is it says at each beat, why it leaves last."""

    process: subprocess.Popen[bytes]
    pipe: int  # The end from which to read its words.
    started: float
    heard: float
    unread: bytes = b""
    workers: set[int] = field(default_factory=set)
    exit_message: str = ""
    kill_reason: str = ""

    def listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while said := os.read(self.pipe, 4096):
                self.heard = time.monotonic()
                *words, self.unread = (self.unread + said).split(b"\n")
                for word in words:
                    if word.isdigit():
                        self.workers.update({int(word)} - {NO_WORKER})
                    else:
                        self.exit_message = word.decode()

    def silence(self) -> float:
        return time.monotonic() - self.heard

    def close(self) -> None:
        os.close(self.pipe)
        if self.process.stdin is not None:
            self.process.stdin.close()


def reporter(writer: int) -> Callable[[object], None]:
    """In a child: how it tells its parent that it lives, and as which worker, or why it leaves."""

    def report(word: object) -> None:
        with contextlib.suppress(OSError):  # The parent is gone; leave_with_parent sees to it.
            os.write(writer, f"{word}\n".encode())

    return report


def leave_with_parent(stop: Callable[[], None]) -> None:
    """In a child: stop when the parent closes our standard input, or is gone."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        stop()

    threading.Thread(target=wait, name="bgtask-parent", daemon=True).start()
