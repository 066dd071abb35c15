"""The base of a worker's threads, and what they do about an error that repeats."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator

from django.db import connections

from bgtask.loggers import get_logger, is_ctrl_c

logger = get_logger(__name__)


@contextlib.contextmanager
def surviving(what: str, *args: object) -> Iterator[None]:
    """
    Log what the block raises, with these words, so that the thread goes on.

    Use it around code of the project, such as a receiver of a signal. Even SystemExit in such code
    must not end a thread that the worker needs.
    """
    try:
        yield
    except BaseException as error:
        if is_ctrl_c(error):
            raise
        logger.error(what, *args, exc_info=error)


class Service(ABC):
    """A thread with database connections of its own."""

    def __init__(self, name: str) -> None:
        self._thread = threading.Thread(target=self._serve, name=f"bgtask-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @abstractmethod
    def _run(self) -> None:
        """Do the work until told to stop."""

    def _serve(self) -> None:
        try:
            self._run()
        finally:
            connections.close_all()


def growing_pause(failures: int, first: float, longest: float) -> float:
    """Return the seconds to wait after so many failures in a row: twice as long each time."""
    return float(min(first * 2 ** min(failures - 1, 30), longest))


def is_worth_logging(failures: int) -> bool:
    """Return whether to log this failure: the 1st, the 10th or every 100th, as outages may last."""
    return failures in (1, 10) or failures % 100 == 0
