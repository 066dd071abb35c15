"""What is said of the times in the columns of a task."""

from __future__ import annotations

from datetime import datetime

# Within one statement: SQLite keeps milliseconds, and rounds them.
RESOLUTION = 0.002
# From one statement to the next a busy machine may pause; what is compared differs by more.
LATENCY = 0.9


def seconds_until(time: datetime, since: datetime) -> float:
    return (time - since).total_seconds()
