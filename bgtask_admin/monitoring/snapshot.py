"""Measure the queue at most once every few seconds, whatever the number of requests."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from django.db import DatabaseError, InterfaceError

from bgtask import clock, health

logger = logging.getLogger("bgtask.monitoring")

KEPT = 5.0  # Seconds.


class Unreadable(Exception):
    """The database is not available, or its tables can't be read."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    health: health.Health
    database: str
    took: float  # Seconds.
    taken: float  # Time of the monotonic clock, in seconds.

    @property
    def age(self) -> float:
        return clock.monotonic() - self.taken


_lock = threading.Lock()
_last: Snapshot | Unreadable | None = None
_expires = 0.0


def take() -> Snapshot:
    """
    Return the figures, at most five seconds old, or raise Unreadable.

    While one request measures, other requests wait for its result. A failure is kept as well.
    Otherwise probes that wait for an unavailable database would use up the server's threads.
    """
    global _last, _expires
    with _lock:
        if _last is None or clock.monotonic() >= _expires:
            _last = _look()
            _expires = clock.monotonic() + KEPT
        last = _last
    if isinstance(last, Unreadable):
        raise last
    return last


def forget() -> None:
    """Drop the snapshot, so that the next request measures again."""
    global _last
    with _lock:
        _last = None


def _look() -> Snapshot | Unreadable:
    began = clock.monotonic()
    try:
        figures = health.check()
    except (DatabaseError, InterfaceError) as error:
        logger.warning("The state of the queue cannot be read: %s", error)
        # The text of the error may name hosts and users, so only the log contains it.
        return Unreadable(f"The database cannot be read ({type(error).__name__}).")
    now = clock.monotonic()
    return Snapshot(figures, health.database(), now - began, now)
