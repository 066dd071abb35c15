"""One look at the queue every few seconds, however many ask."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.utils import timezone, translation

from bgtask import health

logger = logging.getLogger("bgtask.monitoring")

KEPT = 5.0  # Seconds.


class Unreadable(Exception):
    """The database is away, or its tables cannot be read."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    health: health.Health
    database: str
    took: float  # Seconds.
    taken: float  # By the monotonic clock.

    @property
    def age(self) -> float:
        return time.monotonic() - self.taken


_lock = threading.Lock()
_last: Snapshot | Unreadable | None = None
_expires = 0.0


def take() -> Snapshot:
    """
    The figures as they were at most five seconds ago; raise Unreadable.

    Whoever asks meanwhile waits for the one that looks. A failure is kept as well: probes that
    all wait for a database that is away would use up the threads of the server.
    """
    global _last, _expires
    with _lock:
        if _last is None or time.monotonic() >= _expires:
            _last = _look()
            _expires = time.monotonic() + KEPT
        last = _last
    if isinstance(last, Unreadable):
        raise last
    return last


def forget() -> None:
    """Look anew at the next time."""
    global _last
    with _lock:
        _last = None


@contextmanager
def for_everybody() -> Iterator[None]:
    """Use the language and the time zone of the project, not those of who asks first."""
    with (
        translation.override(settings.LANGUAGE_CODE),
        timezone.override(timezone.get_default_timezone()),
    ):
        yield


def _look() -> Snapshot | Unreadable:
    began = time.monotonic()
    try:
        with for_everybody():
            figures = health.check()
    except (DatabaseError, InterfaceError) as error:
        logger.warning("The state of the queue cannot be read: %s", error)
        # Its text may name hosts and users, so it goes to the log only.
        return Unreadable(f"The database cannot be read ({type(error).__name__}).")
    now = time.monotonic()
    return Snapshot(figures, health.database(), now - began, now)
