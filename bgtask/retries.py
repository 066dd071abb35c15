"""Compute how long to wait before the next attempt."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from bgtask import registry
from bgtask.conf import get_settings
from bgtask.loggers import get_logger
from bgtask.values import brief

logger = get_logger(__name__)

# Values of the option ``backoff``: a function of the number of attempts, or one wait for all.
Backoff = Callable[[int], float | timedelta] | float | timedelta

MAX_DELAY_SECONDS = timedelta(days=3650).total_seconds()


def default_backoff(attempts: int) -> float:
    """Return the seconds to wait after so many attempts: 6, 21, 86, 261 … (as DelayedJob)."""
    return float(attempts**4 + 5)


def backoff(attempts: int, rule: Backoff | None = None, jitter: float = 0.0) -> float:
    """
    Return the seconds to wait after so many attempts, by this rule or by the default.

    ``jitter`` adds a random part of the wait, up to that share. So tasks that failed together
    don't come back together. It never makes the wait shorter than the rule says.
    """
    if rule is None:
        wait = default_backoff(attempts)
    else:
        wait = as_seconds(rule(attempts) if callable(rule) else rule)
    return min(wait * (1 + random.uniform(0, jitter)), MAX_DELAY_SECONDS)  # noqa: S311


def delay_after(task: Any) -> float:
    """
    Return the seconds from a failed attempt of this task to the next one.

    The function's own ``backoff`` decides, if the function is known here. ``backoff`` is user
    code. If it raises an error, the error is logged and the default decides.
    """
    name, attempts, jitter = task.task_name, task.attempts, get_settings().retry_jitter
    rule = registry.find(name).backoff_of(task) if registry.knows(name) else None
    with logger.catch("The back-off of %s failed; waiting as long as by default.", task):
        return backoff(attempts, rule, jitter)
    return backoff(attempts, None, jitter)


def as_seconds(wait: float | timedelta) -> float:
    seconds = wait.total_seconds() if isinstance(wait, timedelta) else float(wait)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"A back-off is zero or more seconds, not {brief(wait)}.")
    return seconds
