"""How long to wait after an error that repeats, and how often to log it."""

from __future__ import annotations


def growing_pause(failures: int, first: float, longest: float) -> float:
    """Return the seconds to wait after so many failures in a row: twice as long each time."""
    return float(min(first * 2 ** min(failures - 1, 30), longest))


def is_worth_logging(failures: int) -> bool:
    """Return whether to log this failure: the 1st, the 10th or every 100th, as outages may last."""
    return failures in (1, 10) or failures % 100 == 0
