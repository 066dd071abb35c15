"""Configure the log of a worker, and log what tasks print."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FORMAT = "%(asctime)s %(levelname)s %(message)s"

logger = logging.getLogger("bgtask")


@contextlib.contextmanager
def configured(log_file: str | None, log_level: str | None, log_std: bool) -> Iterator[None]:
    """
    Write the log as the options say, until the block ends.

    If the project's LOGGING has no handler for the log of bgtask, write it to standard error from
    level INFO on. Raise OSError if the log file can't be written.
    """
    handlers: list[logging.Handler] = []
    if not logger.handlers and not logging.getLogger().handlers:
        handlers.append(logging.StreamHandler(sys.stderr))
    if log_file:
        handlers.append(logging.FileHandler(log_file, encoding="utf-8", errors="backslashreplace"))
    streams: tuple[LogStream, ...] = ()
    before = logger.level, logging.raiseExceptions, sys.stdout, sys.stderr
    for handler in handlers:
        handler.setFormatter(OneLineFormatter(FORMAT))
        logger.addHandler(handler)
    if log_level or logger.level == logging.NOTSET:
        logger.setLevel(log_level or logging.INFO)
    logging.raiseExceptions = False  # A full disk must not fill standard error as well.
    if log_std:
        streams = LogStream(logging.INFO, sys.stdout), LogStream(logging.WARNING, sys.stderr)
        sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        for stream in streams:
            stream.flush_all()
        flush()
        level, logging.raiseExceptions, sys.stdout, sys.stderr = before
        logger.setLevel(level)
        for handler in handlers:
            logger.removeHandler(handler)
            # The disk may be full. That must not change the result of the work.
            with contextlib.suppress(OSError):
                handler.close()


def flush() -> None:
    for handler in (*logger.handlers, *logging.getLogger().handlers):
        with contextlib.suppress(Exception):
            handler.flush()


class OneLineFormatter(logging.Formatter):
    """
    A formatter that keeps the text of a task from looking like lines of the log.

    Control characters are escaped, and all lines but the first are indented.
    """

    def format(self, record: logging.LogRecord) -> str:
        text = "".join(
            char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}"
            for char in super().format(record)
        )
        return text.rstrip("\n").replace("\n", "\n    ")


class LogStream(io.TextIOBase):
    """A text stream that writes each line to the log, separately for each thread."""

    def __init__(self, level: int, original: Any) -> None:
        self._level = level
        self._original = original
        self._rests: dict[int, str] = {}  # By thread, the text that has no end of line yet.

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return int(self._original.fileno())

    def write(self, text: str) -> int:
        me = threading.get_ident()
        *lines, self._rests[me] = (self._rests.get(me, "") + text).split("\n")
        for line in lines:
            self._log(line)
        return len(text)

    def flush(self) -> None:
        """
        Log the incomplete line of this thread.

        Other threads may be in the middle of a line, so leave theirs.
        """
        self._log(self._rests.pop(threading.get_ident(), ""))

    def flush_all(self) -> None:
        for thread in list(self._rests):
            self._log(self._rests.pop(thread, ""))

    def _log(self, line: str) -> None:
        if line.strip():
            logger.log(self._level, "%s", line)
