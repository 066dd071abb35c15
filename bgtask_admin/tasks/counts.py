"""Count rows up to a limit. Larger numbers are not exact, so that counting stays fast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.db.models import Q, QuerySet

from bgtask.db.functions import LimitedCount, StatusLiteral, WithoutIndex
from bgtask.models import Task, TaskQuerySet
from bgtask.status import FINISHED, Status

CAP = 10_000  # Nobody needs a greater number exactly, and counting further takes long.


def capped(rows: QuerySet[Any], most: int = CAP) -> int:
    """Return the number of rows. ``most`` + 1 means that there are more than ``most``."""
    return rows.order_by()[: most + 1].count()


def by_status(statuses: Iterable[Status], most: int = CAP, **which: str) -> Mapping[Status, int]:
    """
    Return the number of tasks of each status.

    One query counts all statuses, each with the index of the status. ``most`` + 1 means that
    there are more than ``most``.
    """
    statuses = list(statuses)
    columns = {f"this_{column}": WithoutIndex(column) for column in which}
    values = {f"this_{column}": value for column, value in which.items()}
    numbers = [
        LimitedCount(of_status(status).alias(**columns).filter(**values), most)
        for status in statuses
    ]
    row = Task.objects.order_by("-pk").values_list(*numbers)[:1].first()
    return dict(zip(statuses, row or [0] * len(statuses), strict=True))


def of_status(status: Status) -> TaskQuerySet:
    # The database uses a partial index only if the query repeats the condition of the index.
    finished = Q(finished_at__isnull=False) if status in FINISHED else Q()
    tasks: TaskQuerySet = Task.objects.filter(finished, status=StatusLiteral(status))
    return tasks
