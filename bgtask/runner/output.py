"""Where a worker's words go: its log, and what tasks print."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from typing import Any

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FORMAT = "%(asctime)s %(levelname)s %(message)s"

logger = logging.getLogger("bgtask")


@contextlib.contextmanager
def directed(log_file: str | None, log_level: str | None, log_std: bool) -> Iterator[None]:
    """
    While entered, make the log visible as the options say.

    Where the project has not said in LOGGING what to do with the log of bgtask, it goes to
    standard error from INFO on. Raises OSError for a file that cannot be written.
    """
    handlers: list[logging.Handler] = []
    if not logger.handlers and not logging.getLogger().handlers:
        handlers.append(logging.StreamHandler(sys.stderr))
    if log_file:
        handlers.append(logging.FileHandler(log_file, encoding="utf-8", errors="backslashreplace"))
    before = logger.level, logging.raiseExceptions, sys.stdout, sys.stderr
    for handler in handlers:
        handler.setFormatter(OneLineFormatter(FORMAT))
        logger.addHandler(handler)
    if log_level or logger.level == logging.NOTSET:
        logger.setLevel(log_level or logging.INFO)
    logging.raiseExceptions = False  # A full disk must not fill standard error as well.
    if log_std:
        sys.stdout = LogStream(logging.INFO, sys.stdout)
        sys.stderr = LogStream(logging.WARNING, sys.stderr)
    try:
        yield
    finally:
        if log_std:
            sys.stdout.flush()
            sys.stderr.flush()
        flush()
        level, logging.raiseExceptions, sys.stdout, sys.stderr = before
        logger.setLevel(level)
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


def flush() -> None:
    for handler in (*logger.handlers, *logging.getLogger().handlers):
        with contextlib.suppress(Exception):
            handler.flush()


class OneLineFormatter(logging.Formatter):
    """Control characters of what a task says cannot pass for lines of the log."""

    def format(self, record: logging.LogRecord) -> str:
        return "".join(
            char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}"
            for char in super().format(record)
        )


class LogStream(io.TextIOBase):
    """A text stream, each line of which becomes a line of the log."""

    def __init__(self, level: int, original: Any) -> None:
        self._level = level
        self._original = original
        self._rest = ""

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
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._log(line)
        return len(text)

    def flush(self) -> None:
        if self._rest:
            line, self._rest = self._rest, ""
            self._log(line)

    def _log(self, line: str) -> None:
        if line.strip():
            logger.log(self._level, "%s", line)
