"""Count finished attempts by minute in memory, until a heartbeat writes them to the database."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db import connections

from bgtask import clock
from bgtask.db import operations_for
from bgtask.lifecycle.attempts import Outcome
from bgtask.status import AttemptOutcome, Status

# The order of STATS_COLUMNS after its key columns.
_SUCCEEDED, _FAILED, _RETRIED, _LATENCY, _DURATION, _LATENCY_MAX, _DURATION_MAX = range(7)

_MINUTE = timedelta(minutes=1)

Figures = dict[tuple[datetime, str, str], list[int]]


class Statistics:
    """
    Figures in memory, by minute, queue and name.

    The minutes follow the database's clock. They are computed from this host's monotonic clock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._figures: Figures = {}
        self._origin: datetime
        self._origin_at: float

    def set_clock(self, now: datetime) -> None:
        """Set the time that the database's clock shows at this moment."""
        with self._lock:
            self._origin = now.replace(second=0, microsecond=0)
            self._origin_at = clock.monotonic() - now.second - now.microsecond / 1e6

    def add(self, outcomes: Iterable[tuple[Outcome, str]]) -> None:
        with self._lock:
            for outcome, status in outcomes:
                if outcome.kind is AttemptOutcome.INTERRUPTED:
                    continue  # Not counted, like a release: the attempt doesn't count.
                task = outcome.task
                # Store a time, not a distance from the origin. The origin may be set again before
                # the figures are written.
                minute = self._origin + _MINUTE * ((outcome.ended - self._origin_at) // 60)
                figures = self._figures.setdefault(
                    # On SQLite, a text column may contain bytes.
                    (minute, str(task.queue), str(task.task_name)),
                    [0, 0, 0, 0, 0, 0, 0],
                )
                latency, duration = int(task.waited * 1000), int(outcome.duration * 1000)
                if status == Status.SUCCESSFUL:
                    figures[_SUCCEEDED] += 1
                elif status == Status.FAILED:
                    figures[_FAILED] += 1
                elif status != Status.CANCELLED:
                    figures[_RETRIED] += 1
                figures[_LATENCY] += latency
                figures[_DURATION] += duration
                figures[_LATENCY_MAX] = max(figures[_LATENCY_MAX], latency)
                figures[_DURATION_MAX] = max(figures[_DURATION_MAX], duration)

    def take(self) -> Figures:
        with self._lock:
            figures, self._figures = self._figures, {}
        return figures

    def give_back(self, figures: Figures) -> None:
        """Add figures that could not be written to those that came in meanwhile."""
        with self._lock:
            for key, values in figures.items():
                mine = self._figures.setdefault(key, [0, 0, 0, 0, 0, 0, 0])
                for index in range(_LATENCY_MAX):
                    mine[index] += values[index]
                for index in (_LATENCY_MAX, _DURATION_MAX):
                    mine[index] = max(mine[index], values[index])

    def write(self, alias: str, figures: Figures) -> None:
        """Write the figures in key order, so that two workers can't deadlock."""
        connection = connections[alias]
        rows: list[list[Any]] = []
        for (minute, queue, name), values in sorted(figures.items()):
            rows.append([connection.ops.adapt_datetimefield_value(minute), queue, name, *values])
        if rows:
            operations_for(connection).add_stats(connection, rows)
