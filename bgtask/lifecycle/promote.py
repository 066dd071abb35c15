"""Let tasks be claimed once they are due, or once their hold is over."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from django.db import connections

from bgtask.db import DatabaseNow, operations_for
from bgtask.models import Task, TaskHold, TaskQuerySet
from bgtask.status import HeldFor

PAGE_ROWS = 1_000  # A thousand parameters are within the limits of every database.


def promote_due(limit: int = 1_000) -> int:
    """Make SCHEDULED tasks that are due READY; return how many."""
    due = Task.objects.scheduled().filter(run_at__lte=DatabaseNow()).order_by("run_at", "id")
    return operations_for(connections[due.db]).promote(due[:limit])


def unhold_known(knows: Callable[[str], bool]) -> int:
    """Unhold tasks that were set aside as unknown, if ``knows(name)``; return how many."""
    waiting = Task.objects.held().filter(held_for=HeldFor.UNKNOWN).order_by()
    names = waiting.values_list("task_name", flat=True).distinct()
    return _unhold_named(waiting, {name for name in list(names) if knows(name)})


def unhold_expired() -> int:
    """Unhold tasks whose hold is over; return how many."""
    on_hold = TaskHold.objects.in_force().values_list("task_name", flat=True)
    waiting = Task.objects.held().filter(held_for=HeldFor.TYPE).order_by()
    names = set(waiting.values_list("task_name", flat=True).distinct())
    return _unhold_named(waiting, names - set(on_hold) if names else set())


def _unhold_named(held: TaskQuerySet, names: Iterable[str]) -> int:
    """
    Unhold those of these HELD tasks that have one of these names; return how many.

    Each page has a transaction of its own. The watchdog would interrupt one statement for a
    million rows, which would then be rolled back and retried without end. Page by (name, id), in
    index order. Starting over for each page would rescan the rows that were already unheld.
    """
    connection = connections[held.db]
    total = 0
    for name in sorted(names):
        ids = [0]
        while ids:
            page = held.filter(task_name=name, pk__gt=ids[-1]).order_by("pk")
            with operations_for(connection).transaction(connection):
                # Skip rows that another worker is changing, since many workers may start at once.
                page = page.select_for_update(
                    skip_locked=connection.features.has_select_for_update_skip_locked
                )
                ids = list(page.values_list("pk", flat=True)[:PAGE_ROWS])
                if ids:
                    total += held.filter(pk__in=ids).unhold()
    return total
