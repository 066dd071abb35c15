"""Count rows up to a limit. Larger numbers are not exact, so that counting stays fast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.db.models import IntegerField, Q, QuerySet, Subquery

from bgtask.db.functions import StatusLiteral, WithoutIndex
from bgtask.models import Task, TaskQuerySet
from bgtask.status import FINISHED, Status

CAP = 10_000  # Nobody needs a greater number exactly, and counting further takes long.


class _Number(Subquery):
    """The number of rows of a query, up to CAP + 1."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) AS limited)"
    output_field = IntegerField()

    def __init__(self, rows: QuerySet[Any]) -> None:
        super().__init__(rows.order_by().values("pk")[: CAP + 1])


def capped(rows: QuerySet[Any]) -> int:
    """Return the number of rows. CAP + 1 means that there are more than CAP."""
    return rows.order_by()[: CAP + 1].count()


def by_status(statuses: Iterable[Status], **which: str) -> Mapping[Status, int]:
    """
    Return the number of tasks of each status.

    One query counts all statuses, each with the index of the status. CAP + 1 means more than CAP.
    """
    statuses = list(statuses)
    columns = {f"this_{column}": WithoutIndex(column) for column in which}
    values = {f"this_{column}": value for column, value in which.items()}
    numbers = [_Number(of_status(status).alias(**columns).filter(**values)) for status in statuses]
    row = Task.objects.order_by("-pk").values_list(*numbers)[:1].first()
    return dict(zip(statuses, row or [0] * len(statuses), strict=True))


def of_status(status: Status) -> TaskQuerySet:
    # The database uses a partial index only if the query repeats the condition of the index.
    finished = Q(finished_at__isnull=False) if status in FINISHED else Q()
    tasks: TaskQuerySet = Task.objects.filter(finished, status=StatusLiteral(status))
    return tasks
