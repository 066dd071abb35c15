"""What is done to very many tasks, in statements that are short."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask.db import operations_for

if TYPE_CHECKING:
    from bgtask.models.task_queryset import TaskQuerySet

PAGE = 1_000  # A thousand parameters are within the limits of every database.


def release_held(held: TaskQuerySet, names: Iterable[str], connection: BaseDatabaseWrapper) -> int:
    """
    Unhold those of these HELD tasks that have one of these names; return how many.

    Each page in a transaction of its own: one statement for a million would be cut short by the
    watchdog, rolled back, and tried again for ever. By name and id, as their index has them, and
    on from the last: to begin anew would be to step over all that was let go before.
    """
    total = 0
    for name in sorted(names):
        ids = [0]
        while ids:
            page = held.filter(task_name=name, pk__gt=ids[-1]).order_by("pk")
            with operations_for(connection).transaction(connection):
                # What somebody else is at is left to him: many workers may start at once.
                page = page.select_for_update(
                    skip_locked=connection.features.has_select_for_update_skip_locked
                )
                ids = list(page.values_list("pk", flat=True)[:PAGE])
                if ids:
                    total += held.filter(pk__in=ids).unhold()
    return total
