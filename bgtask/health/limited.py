from __future__ import annotations

from typing import Any

from django.db.models import IntegerField, QuerySet, Subquery


class LimitedCount(Subquery):
    """The number of rows of a query, counted up to ``most`` + 1. Beyond, it would take long."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) AS limited)"
    output_field = IntegerField()

    def __init__(self, rows: QuerySet[Any], most: int) -> None:
        super().__init__(rows.order_by().values("pk")[: most + 1])
