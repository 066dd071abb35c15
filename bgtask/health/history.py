"""
Throughput, failures, backlog and age over time.

Hours are read from the statistics by the minute; days from the quarters of an hour that have
been added up, and from the minutes behind them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
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

from bgtask.dialects import Since
from bgtask.models import QueueHistory, QueueStats, TaskStats
from bgtask.models.manager import database_time
from bgtask.models.stats import BACKLOG, QUARTER, RESULTS

STEPS = (60, 300, 900, 1800, 3600, 4 * 3600, 86_400)  # Seconds.
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

    def of(self, queue: str) -> Series:
        """This queue's series; one of empty points if nothing is known of it."""
        for series in self.queues:
            if series.queue == queue:
                return series
        return Series(queue=queue, points=tuple(Point(at=point.at) for point in self.total.points))


def history(
    hours: float = 1, queues: Sequence[str] | None = None, now: datetime | None = None
) -> History:
    """
    The last so many hours, in steps that make 60 to 170 points of it.

    One minute for 1 h, a quarter of an hour for 24 h, an hour for 7 d. One query, and
    one more for who does not know what time it is.
    """
    now = now or database_time(TaskStats.objects.all().db)
    step = next((one for one in STEPS if hours * 3600 / one <= POINTS), STEPS[-1])
    number = max(math.ceil(hours * 3600 / step), 1)
    end = _next(now, step)
    start = end - timedelta(seconds=number * step)
    figures = _Figures(start, end, step, now, queues).read()
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

    def read(self) -> dict[str, dict[int, dict[str, Any]]]:
        figures: dict[str, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
        parts = [self._results(TaskStats), self._backlog(QueueStats)]
        if self._by_quarters:
            parts += [self._results(QueueHistory), self._backlog(QueueHistory)]
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

    def _results(self, model: Any) -> Any:
        return self._part("results", model, *map(Sum, RESULTS))

    def _backlog(self, model: Any) -> Any:
        return self._part("backlog", model, *map(Max, BACKLOG), Value(0, IntegerField()))

    def _part(self, kind: str, model: Any, *measures: Any) -> Any:
        minutes = self._by_quarters and model is not QueueHistory
        begin = self._added_up() if minutes else self.start
        rows = model.objects.filter(minute__gte=begin, minute__lt=self.end)
        if self.queues is not None:
            rows = rows.filter(queue__in=self.queues)
        # Half a minute more, lest the time since the clock was read put a minute too early.
        since = Value((self.now - self.start).total_seconds() + 30, FloatField())
        one, two, three = measures
        rows = rows.annotate(
            kind=Value(kind, TextField()), place=_Whole((since - Since("minute")) / self.step)
        )
        rows = rows.values("kind", "queue", "place").annotate(one=one, two=two, three=three)
        return rows.values_list("kind", "queue", "place", "one", "two", "three")

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
