"""What is said of the times in the columns of a task."""

from __future__ import annotations

from datetime import datetime

# SQLite keeps milliseconds, and two statements do not read the clock at the same one.
RESOLUTION = 0.002


def seconds_until(time: datetime, since: datetime) -> float:
    return (time - since).total_seconds()
