"""
Read throughput, failures, backlog and age over time.

A history of hours is read from the statistics by the minute. A history of days is read from the
quarters of an hour that have been added up, and from the minutes after them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import (
    DateTimeField,
    ExpressionWrapper,
    F,
    FloatField,
    IntegerField,
    Max,
    Subquery,
    Sum,
    TextField,
    Value,
)
from django.db.models.functions import Coalesce
from django.utils import timezone

from bgtask.db import SecondsSince
from bgtask.db.functions import Floor
from bgtask.db.routing import database_now
from bgtask.models import QueueHistory, QueueStats, TaskStats
from bgtask.models.stats import BACKLOG, QUARTER, RESULTS

STEPS = (60, 300, 900, 1800, 3600, 4 * 3600, 86_400)  # Seconds.
_ALL = ""  # Stands for all queues together. No queue can have this name.
POINTS = 170  # The step is chosen so that there are no more points.


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What happened from ``at`` until the next point."""

    at: datetime
    succeeded: int = 0
    failed: int = 0  # Attempts that failed for good.
    retried: int = 0  # Attempts that failed and will be followed by another.
    # The greatest values in that time. None: nothing was sampled, because no worker ran.
    ready: int | None = None
    oldest_ready_age: float | None = None  # Seconds.

    @property
    def finished(self) -> int:
        """Return the number of attempts that ended."""
        return self.succeeded + self.failed + self.retried


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """
    The points of one queue, or of all together (name "").

    There is one point for each step of the history.
    """

    queue: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    start: datetime
    end: datetime  # Not included. The last step has not ended yet.
    step: timedelta
    total: Series
    queues: tuple[Series, ...]  # By name. Queues without figures are left out.

    # ``total`` is the sum of all queues, including those that have no series of their own.

    def of(self, queue: str) -> Series:
        """Return the series of this queue, or one of empty points if nothing is known of it."""
        for series in self.queues:
            if series.queue == queue:
                return series
        return Series(queue=queue, points=tuple(Point(at=point.at) for point in self.total.points))


def read_history(
    hours: float = 1,
    queues: Sequence[str] | None = None,
    now: datetime | None = None,
    series_of: Sequence[str] | None = None,
) -> History:
    """
    Return the history of the last ``hours``, in 60 to 170 steps.

    A step is one minute for 1 h, a quarter of an hour for 24 h and an hour for 7 d. Run one
    query, or two if ``now`` is omitted.

    ``series_of`` names the queues that get a series of their own. By default, every queue gets
    one. The database only adds up the others, so that a thousand queues cost little more than ten.
    """
    now = now or database_now(TaskStats.objects.all().db)
    step = next((one for one in STEPS if hours * 3600 / one <= POINTS), STEPS[-1])
    number = max(math.ceil(hours * 3600 / step), 1)
    end = _next(now, step)
    start = end - timedelta(seconds=number * step)
    figures = _Figures(start, end, step, now, queues, series_of).read()
    sums = figures.pop(_ALL, {}) if series_of is not None else None
    times = [start + timedelta(seconds=index * step) for index in range(number)]
    series = [
        Series(
            queue=queue,
            points=tuple(_point(at, of_queue.get(index, {})) for index, at in enumerate(times)),
        )
        for queue, of_queue in sorted(figures.items())
    ]
    return History(
        start=start,
        end=end,
        step=timedelta(seconds=step),
        total=Series(
            queue="",
            points=tuple(
                _together(at, [one.points[index] for one in series])
                if sums is None
                else _point(at, sums.get(index, {}))
                for index, at in enumerate(times)
            ),
        ),
        queues=tuple(series),
    )


@dataclass(frozen=True)
class _Figures:
    """The figures of each queue and step, read from the tables that hold them."""

    start: datetime
    end: datetime
    step: int
    now: datetime
    queues: Sequence[str] | None
    series_of: Sequence[str] | None

    def read(self) -> dict[str, dict[int, dict[str, Any]]]:
        figures: dict[str, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
        models: tuple[Any, ...] = (TaskStats, QueueStats)
        if self._by_quarters:
            models += (QueueHistory, QueueHistory)
        parts = [
            part
            for results, backlog in zip(models[::2], models[1::2], strict=True)
            for part in (
                *self._parts("results", results, RESULTS, Sum, Sum, Sum),
                *self._parts("backlog", backlog, BACKLOG, Sum, Max),
            )
        ]
        for kind, queue, place, *numbers in parts[0].union(*parts[1:], all=True):
            figure = figures[queue][int(place)]
            # A step may consist of some quarters, and of minutes after them.
            if kind == "results":
                for name, number in zip(RESULTS, numbers, strict=True):
                    figure[name] = figure.get(name, 0) + int(number)
            else:
                for name, number in zip(BACKLOG, numbers, strict=False):
                    if number is not None:
                        figure[name] = max(figure.get(name, 0), int(number))
        return figures

    @property
    def _by_quarters(self) -> bool:
        return self.step >= QUARTER.total_seconds()

    def _parts(self, kind: str, model: Any, columns: Sequence[str], *sums: Any) -> Iterator[Any]:
        """Yield the query for each queue, after one for all together if ``series_of`` is given."""
        nothing = (Value(0, IntegerField()),) * (3 - len(columns))
        of_one = map(Sum if kind == "results" else Max, columns)
        rows = self._rows(kind, model)
        if self.series_of is not None:
            # Group by the minute, so that tasks that were ready at the same time are added up.
            # The greatest of these sums is taken for each step afterwards.
            of_all = (measure(column) for measure, column in zip(sums, columns, strict=True))
            by_minute = rows.annotate(all=Value(_ALL, TextField())).values(
                "kind", "all", "place", "minute"
            )
            yield self._listed(by_minute, "all", *of_all, *nothing)
            rows = rows.filter(queue__in=self.series_of)
        yield self._listed(rows.values("kind", "queue", "place"), "queue", *of_one, *nothing)

    def _listed(self, rows: Any, queue: str, one: Any, two: Any, three: Any) -> Any:
        rows = rows.annotate(one=one, two=two, three=three)
        return rows.values_list("kind", queue, "place", "one", "two", "three")

    def _rows(self, kind: str, model: Any) -> Any:
        minutes = self._by_quarters and model is not QueueHistory
        begin = self._added_up() if minutes else self.start
        rows = model.objects.filter(minute__gte=begin, minute__lt=self.end)
        if self.queues is not None:
            rows = rows.filter(queue__in=self.queues)
        # Add 30 seconds, so that the delay since ``now`` was read can't move a row into the
        # previous step.
        since = Value((self.now - self.start).total_seconds() + 30, FloatField())
        return rows.annotate(
            kind=Value(kind, TextField()),
            place=Floor((since - SecondsSince("minute")) / self.step),
        )

    def _added_up(self) -> Coalesce:
        """Return the time until which quarters have been added up, or else the start (SQL)."""
        end = ExpressionWrapper(F("minute") + Value(QUARTER), DateTimeField())
        quarters = QueueHistory.objects.filter(minute__gte=self.start).order_by("-minute")
        return Coalesce(Subquery(quarters.values(end=end)[:1]), Value(self.start))


def _next(now: datetime, step: int) -> datetime:
    """Return the end of the current step. Steps are aligned to local time."""
    wall = timezone.localtime(now).replace(tzinfo=None) if timezone.is_aware(now) else now
    gone = (wall - datetime.min) % timedelta(seconds=step)
    return now - gone + timedelta(seconds=step)


def _point(at: datetime, figures: dict[str, Any]) -> Point:
    age = figures.pop("oldest_ready_age", None)
    return Point(at=at, oldest_ready_age=None if age is None else age / 1000, **figures)


def _together(at: datetime, points: Sequence[Point]) -> Point:
    ready = [point.ready for point in points if point.ready is not None]
    ages = [point.oldest_ready_age for point in points if point.oldest_ready_age is not None]
    return Point(
        at=at,
        succeeded=sum(point.succeeded for point in points),
        failed=sum(point.failed for point in points),
        retried=sum(point.retried for point in points),
        ready=sum(ready) if ready else None,
        oldest_ready_age=max(ages, default=None),
    )
