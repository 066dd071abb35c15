"""Numbers that are exact where that is cheap, and never cost more than a moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.db.models import Func, IntegerField, Q, QuerySet, Subquery

from bgtask.health.literal import Literal
from bgtask.models import Task, TaskQuerySet
from bgtask.status import FINISHED, Status

CAP = 10_000  # Nobody needs a greater number exactly, and to count on takes long.


class _Number(Subquery):
    """How many rows a query has, but for what is beyond its limit."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) AS limited)"
    output_field = IntegerField()

    def __init__(self, rows: QuerySet[Any]) -> None:
        super().__init__(rows.order_by().values("pk")[: CAP + 1])


def capped(rows: QuerySet[Any]) -> int:
    """CAP + 1 stands for more."""
    return rows.order_by()[: CAP + 1].count()


class _ByNoIndex(Func):
    """A column; the index on it is left alone by SQLite, which holds frequent values to be rare."""

    arity = 1
    template = "%(expressions)s"

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template="+%(expressions)s")


def by_status(statuses: Iterable[Status], **which: str) -> Mapping[Status, int]:
    """All of them by one query, each by the index of its status; CAP + 1 stands for more."""
    statuses = list(statuses)
    columns = {f"this_{column}": _ByNoIndex(column) for column in which}
    values = {f"this_{column}": value for column, value in which.items()}
    numbers = [_Number(of_status(status).alias(**columns).filter(**values)) for status in statuses]
    row = Task.objects.order_by("-pk").values_list(*numbers)[:1].first()
    return dict(zip(statuses, row or [0] * len(statuses), strict=True))


def of_status(status: Status) -> TaskQuerySet:
    # What a partial index is of has to be said, or it is not used.
    finished = Q(finished_at__isnull=False) if status in FINISHED else Q()
    tasks: TaskQuerySet = Task.objects.filter(finished, status=Literal(status))
    return tasks
