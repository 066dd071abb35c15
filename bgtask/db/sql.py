"""Columns, bounds and parts of statements that all databases share."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Sequence, Sized
from typing import Any

from django.db.models import QuerySet

from bgtask.db.internals import select_sql

# The columns that a worker needs to run a task. Other columns are read when they are accessed.
CLAIMED = (
    "id", "task_name", "task_params", "queue", "priority", "token", "attempts", "crashes",
    "max_attempts", "max_run_time", "cancel_requested", "backend",
)  # fmt: skip
# Further columns that the result of a task needs. A worker converts them only if the result is
# asked for. A date that was edited by hand may be one that Python can't represent.
UNCONVERTED = ("result_id", "enqueued_at", "started_at", "locked_at")
RETURNED = (*CLAIMED, *UNCONVERTED)
ORDER = ("run_at", "due_for")

# A claim raises the token by 1 to TOKEN_JUMP_MAX, at random. A higher token than TOKEN_CEILING was
# written by hand. It counts as TOKEN_CEILING, so that no sum exceeds 64 bits.
TOKEN_JUMP_MAX = 2**31
TOKEN_CEILING = 2**62

# Bounds of the counter columns and of the priority column on every database.
COUNT_MAX = 2**31 - 1
PRIORITY_MIN, PRIORITY_MAX = -(2**31), 2**31 - 1

OUTCOME_COLUMNS = (
    "id", "token", "status", "age", "duration", "duration_ms", "delay", "run_at", "return_value",
    "last_error", "error_message", "error_class", "error_fingerprint",
)  # fmt: skip

STATS_KEY = ("minute", "queue", "task_name")
STATS_SUMS = ("succeeded", "failed", "retried", "latency_sum", "duration_sum")
STATS_PEAKS = ("latency_max", "duration_max")
STATS_COLUMNS = (*STATS_KEY, *STATS_SUMS, *STATS_PEAKS)
STATS_BATCH = 100  # Rows. A thousand parameters are within the limits of every database.


def sorted_out(
    rows: Sequence[Sequence[Any]],
) -> tuple[dict[str, Any], dict[str, Sequence[Any]]]:
    """
    Split rows of OUTCOME_COLUMNS into columns with one value for all rows, and all others.

    Return the value of each column of the first kind, and the values of each other column. In a
    batch of successes few columns differ. A value that is sent once need not be sent, parsed and
    compared a hundred times.
    """
    same: dict[str, Any] = {}
    different: dict[str, Sequence[Any]] = {}
    for name, values in zip(OUTCOME_COLUMNS, zip(*rows, strict=True), strict=True):
        if name not in ("id", "token") and values.count(values[0]) == len(values):
            same[name] = values[0]
        else:
            different[name] = values
    return same, different


def token_jump() -> int:
    """
    Return the number by which one claim statement raises the tokens of its tasks.

    A database may lose its newest commits: in a failover to a standby that lags behind, or in a
    power cut without sync. Tokens and ids then return to earlier values. With ``token + 1`` the
    next claim would give its worker a pair (id, token) that another worker still holds. The number
    comes from the operating system, so a fork or ``random.seed()`` can't make two workers draw the
    same numbers.
    """
    return 1 + secrets.randbelow(TOKEN_JUMP_MAX)


def as_priority(value: Any) -> int:
    """Return the priority by which this value is sorted. SQLite stores text in any column."""
    if not isinstance(value, int | float):
        return PRIORITY_MAX
    return math.floor(min(max(value, PRIORITY_MIN), PRIORITY_MAX))


def as_count(value: Any) -> int:
    """Return the value, or COUNT_MAX if it is no count. SQLite stores text in any column."""
    return value if isinstance(value, int) and 0 <= value <= COUNT_MAX else COUNT_MAX


def constants(names: Iterable[str]) -> str:
    return "".join(f", %s AS {name}" for name in names)


def marks(items: Sized) -> str:
    return ", ".join(["%s"] * len(items))


def on_conflict(greatest: str) -> str:
    """
    Return the ON CONFLICT clause that adds to the existing row.

    PostgreSQL and SQLite differ only in the function ``greatest``.
    """
    table = "bgtask_taskstats"
    sums = [f"{name} = {table}.{name} + excluded.{name}" for name in STATS_SUMS]
    peaks = [f"{name} = {greatest}({table}.{name}, excluded.{name})" for name in STATS_PEAKS]
    return f"ON CONFLICT ({', '.join(STATS_KEY)}) DO UPDATE SET {', '.join([*sums, *peaks])}"


def compiled(queryset: QuerySet[Any], *names: str) -> tuple[str, tuple[Any, ...]]:
    """Return the SELECT of these columns and its parameters, for use in a larger statement."""
    return select_sql(queryset.values_list(*names))
