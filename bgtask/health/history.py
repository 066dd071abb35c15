"""
Throughput, failures, backlog and age over time.

Hours are read from the statistics by the minute; days from the quarters of an hour that have
been added up, and from the minutes behind them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import FloatField, Func, IntegerField, Max, Sum, TextField, Value
from django.utils import timezone

from bgtask.dialects import Since
from bgtask.models import QueueHistory, QueueStats, TaskStats
from bgtask.models.manager import database_time
from bgtask.models.stats import BACKLOG, QUARTER, RESULTS, SETTLED, start_of_quarter

STEPS = (60, 300, 900, 1800, 3600, 4 * 3600, 86_400)  # Seconds.
POINTS = 170  # A step is chosen that makes no more of them.
_QUARTER = int(QUARTER.total_seconds())


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

    One minute for 1 h, a quarter of an hour for 24 h, an hour for 7 d. One query; one more for
    who does not know what time it is, and one where quarters wait for being added up.
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
        if self.step < _QUARTER:
            self._add(figures, _union(self._minutes(self.start, self.end)))
            return figures
        recent = max(start_of_quarter(self.now - SETTLED - QUARTER), self.start)
        quarters = self._both(QueueHistory, QueueHistory, self.start, self.end, self.step)
        rows = list(_union([*self._minutes(recent, self.end), *quarters]))
        done = max((int(row[3]) + 1 for row in rows), default=0)
        settled = self.start + done * QUARTER
        if settled < recent:
            self._add(figures, _union(self._minutes(settled, recent)))
        self._add(figures, rows, behind=done)
        return figures

    def _add(self, figures: Any, rows: Iterable[Any], behind: int = 0) -> None:
        """Of the minutes, those behind so many quarters: the others are in the quarters."""
        grain = min(self.step, _QUARTER)
        for kind, queue, place, settled, *numbers in rows:
            index = int(place)
            if settled < 0:
                if index < behind:
                    continue
                index = index * grain // self.step
            figure = figures[queue][index]
            if kind == "results":
                for name, number in zip(RESULTS, numbers, strict=True):
                    figure[name] = figure.get(name, 0) + int(number)
            else:
                for name, number in zip(BACKLOG, numbers, strict=False):
                    if number is not None:
                        figure[name] = max(figure.get(name, 0), int(number))

    def _minutes(self, begin: datetime, end: datetime) -> list[Any]:
        return self._both(TaskStats, QueueStats, begin, end, min(self.step, _QUARTER))

    def _both(
        self, results: Any, backlog: Any, begin: datetime, end: datetime, step: int
    ) -> list[Any]:
        none = Value(0, IntegerField())
        return [
            self._part("results", results, begin, end, step, *map(Sum, RESULTS)),
            self._part("backlog", backlog, begin, end, step, *map(Max, BACKLOG), none),
        ]

    def _part(
        self, kind: str, model: Any, begin: datetime, end: datetime, step: int, *measures: Any
    ) -> Any:
        rows = model.objects.filter(minute__gte=begin, minute__lt=end)
        if self.queues is not None:
            rows = rows.filter(queue__in=self.queues)
        is_history = model is QueueHistory
        # The last quarter that has been added up; below zero: this is of minutes.
        settled = Max(self._place(_QUARTER)) if is_history else Value(-1.0, FloatField())
        one, two, three = measures
        rows = rows.annotate(kind=Value(kind, TextField()), place=self._place(step))
        rows = rows.values("kind", "queue", "place")
        rows = rows.annotate(settled=settled, one=one, two=two, three=three)
        return rows.values_list("kind", "queue", "place", "settled", "one", "two", "three")

    def _place(self, step: int) -> _Whole:
        """The how manieth step from the start. A float, for that is what databases give."""
        # Half a minute more, lest the time since the clock was read put a minute too early.
        since = (self.now - self.start).total_seconds() + 30
        return _Whole((Value(since, FloatField()) - Since("minute")) / step)


def _union(parts: Sequence[Any]) -> Any:
    return parts[0].union(*parts[1:], all=True)


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
