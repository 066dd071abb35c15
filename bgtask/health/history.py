"""Throughput, failures, backlog and age over time, from the statistics by the minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What happened from ``at`` until the next point."""

    at: datetime
    succeeded: int = 0
    failed: int = 0  # For good.
    retried: int = 0  # Attempts that failed and will be followed by another.
    # The greatest in that time; None where nothing was noted (no worker ran).
    ready: int | None = None
    oldest_ready_age: float | None = None  # Seconds.

    @property
    def finished(self) -> int:
        """Attempts that ended."""
        return self.succeeded + self.failed + self.retried


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One queue, or all together (name ""): as many points as the history has steps."""

    queue: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    start: datetime
    end: datetime  # Not included; the last step goes on still.
    step: timedelta
    total: Series
    queues: tuple[Series, ...]  # By name; those without anything are left out.

    def of(self, queue: str) -> Series:
        """This queue's series; one of zeros if nothing is known of it."""
        raise NotImplementedError


def history(hours: float = 1, queues: Sequence[str] | None = None) -> History:
    """
    The last so many hours, in steps that make 60 to 170 points of it.

    One minute for 1 h, a quarter of an hour for 24 h, an hour for 7 d. Three queries.
    """
    raise NotImplementedError
