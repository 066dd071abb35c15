"""
Throughput, failures, backlog and age over time.

Hours are read from the statistics by the minute; days from the quarters of an hour that have
been added up, and from the minutes behind them.
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
    Func,
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
from bgtask.db.routing import database_now
from bgtask.models import QueueHistory, QueueStats, TaskStats
from bgtask.models.stats import BACKLOG, QUARTER, RESULTS

STEPS = (60, 300, 900, 1800, 3600, 4 * 3600, 86_400)  # Seconds.
_ALL = ""  # Stands for all queues together; no queue is called so.
POINTS = 170  # A step is chosen that makes no more of them.


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

    # ``total`` is of all queues, also of those that have no series of their own.

    def of(self, queue: str) -> Series:
        """This queue's series; one of empty points if nothing is known of it."""
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
    The last so many hours, in steps that make 60 to 170 points of it.

    One minute for 1 h, a quarter of an hour for 24 h, an hour for 7 d. One query, and
    one more for who does not know what time it is.

    ``series_of`` names the queues that get a series of their own; None: every queue. The others
    are only added up, in the database, so that a thousand queues cost little more than ten.
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
    """What is known of each queue and step, from the tables that know it."""

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
            # A step may have some quarters, and minutes behind them.
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
        """Yield the query for each queue, and one for all together where that is asked for."""
        nothing = (Value(0, IntegerField()),) * (3 - len(columns))
        of_one = map(Sum if kind == "results" else Max, columns)
        rows = self._rows(kind, model)
        if self.series_of is not None:
            # By the minute: what stood ready at the same time is added up, before the greatest
            # sum of a step is taken.
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
        # Half a minute more, lest the time since the clock was read put a minute too early.
        since = Value((self.now - self.start).total_seconds() + 30, FloatField())
        return rows.annotate(
            kind=Value(kind, TextField()),
            place=_Whole((since - SecondsSince("minute")) / self.step),
        )

    def _added_up(self) -> Coalesce:
        """Until when quarters have been added up, if any of this time has."""
        end = ExpressionWrapper(F("minute") + Value(QUARTER), DateTimeField())
        quarters = QueueHistory.objects.filter(minute__gte=self.start).order_by("-minute")
        return Coalesce(Subquery(quarters.values(end=end)[:1]), Value(self.start))


class _Whole(Func):
    """Steps, without what is left over."""

    function = "FLOOR"
    output_field = FloatField()

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        # Django's FLOOR is a function of Python here; this is a word of SQLite, and ten times
        # as fast. The number is never negative.
        return self.as_sql(compiler, connection, template="CAST(%(expressions)s AS INTEGER)")


def _next(now: datetime, step: int) -> datetime:
    """The end of the step that goes on, on the clock on the wall."""
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
