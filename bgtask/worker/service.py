"""Define the base of a worker's threads, and how often they try what keeps failing."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

from django.db import connections


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
