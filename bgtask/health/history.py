"""Throughput, failures, backlog and age over time, from the statistics by the minute."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import FloatField, Func, IntegerField, Max, Sum, TextField, Value
from django.utils import timezone

from bgtask.dialects import Since
from bgtask.models import QueueStats, TaskStats
from bgtask.models.manager import database_time

STEPS = (60, 300, 900, 1800, 3600, 4 * 3600, 86_400)  # Seconds.
POINTS = 170  # A step is chosen that makes no more of them.

_RESULTS = ("succeeded", "failed", "retried")
_BACKLOG = ("ready", "oldest_ready_age")


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
    figures: dict[str, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    # Half a minute more, lest the time since the clock was read put a minute too early.
    place = _Whole((_seconds((now - start).total_seconds() + 30) - Since("minute")) / step)

    def part(model: Any, *measures: Any) -> Any:
        one, two, three = measures
        rows = model.objects.filter(minute__gte=start, minute__lt=end)
        if queues is not None:
            rows = rows.filter(queue__in=queues)
        rows = rows.annotate(of=Value(model.__name__, TextField()), place=place)
        rows = rows.values("of", "queue", "place").annotate(one=one, two=two, three=three)
        return rows.values_list("of", "queue", "place", "one", "two", "three")

    results = part(TaskStats, *(Sum(name) for name in _RESULTS))
    backlog = part(QueueStats, *map(Max, _BACKLOG), Value(0, IntegerField()))
    for of, queue, index, *numbers in results.union(backlog, all=True):
        names = _RESULTS if of == TaskStats.__name__ else _BACKLOG
        figures[queue][int(index)] |= dict(zip(names, map(int, numbers), strict=False))
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


class _Whole(Func):
    """Steps, without what is left over."""

    function = "FLOOR"
    output_field = FloatField()

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        # Django's FLOOR is a function of Python here; this is a word of SQLite, and ten times
        # as fast. The number is never negative.
        return self.as_sql(compiler, connection, template="CAST(%(expressions)s AS INTEGER)")


def _seconds(number: float) -> Value:
    return Value(number, output_field=FloatField())


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
