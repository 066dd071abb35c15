"""Bound the number of rows that a count or an export reads, if no index finds its tasks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import QuerySet

from bgtask.models import Task, TaskQuerySet
from bgtask.status import Status
from bgtask_admin.tasks.counts import by_status, capped
from bgtask_admin.tasks.list import indexed, listed
from bgtask_admin.tasks.selection import Selection

MOST_SEARCHED = 100_000  # Rows. Reading them takes a tenth of a second.
MOST_TEXTS_SEARCHED = 10_000  # The same limit for error texts, which are long.


@dataclass(frozen=True)
class Bounded:
    """The tasks to read, and how far they reach."""

    tasks: TaskQuerySet
    looked_at: int = 0  # The number of newest tasks that are read. 0: all tasks.
    above: int = 0  # Only tasks with a greater id are read.

    def count(self, selection: Selection) -> int:
        """Return how many match: all, if ``looked_at`` is 0, and otherwise at least so many."""
        if self.looked_at and not needs_reading(selection):
            return min(capped(self.tasks, self.looked_at), self.looked_at)
        return self.within().count()

    def within(self) -> TaskQuerySet:
        return self.tasks.filter(pk__gt=self.above) if self.above else self.tasks


def bounded(selection: Selection, tasks: TaskQuerySet, statuses: Iterable[Status]) -> Bounded:
    """
    Return the part of these tasks, of these statuses, that may be read.

    If an index alone can't bring the tasks to read below the limit, only the newest are read.
    """
    most = MOST_TEXTS_SEARCHED if "error" in selection.data else MOST_SEARCHED
    if selection.is_chosen_one_by_one or _is_small(selection, sorted(statuses), most):
        return Bounded(tasks)
    highest = Task.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    return Bounded(tasks, most, max(highest - most, 0))


def _is_small(selection: Selection, statuses: list[Status], most: int) -> bool:
    """Return whether an index leaves at most ``most`` tasks to read."""
    if selection.status:
        if _is_within(listed(selection.only(*_by_index(selection))), most):
            return True
    elif sum(by_status(statuses, most).values()) <= most:
        return True
    return "task" in selection.data and _is_within(selection.only("task").candidates(), most)


def _is_within(rows: QuerySet[Task], most: int) -> bool:
    return capped(rows, most) <= most


def needs_reading(selection: Selection) -> bool:
    """Return whether rows have to be read to know whether they match."""
    return not selection.status or selection.data.keys() - _by_index(selection) != set()


def _by_index(selection: Selection) -> set[str]:
    """Return the filters that an index answers. No index has the times of these statuses."""
    without_time = selection.status in (Status.READY, Status.RUNNING)
    return indexed(selection) - ({"since", "until"} if without_time else set())
