"""Delete old finished tasks, batch by batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from django.db.models import Q, Subquery

from bgtask.db import DatabaseNow
from bgtask.models import Task
from bgtask.status import Status


class Pruning(Iterator[int]):
    """
    Delete one batch per iteration, beginning with the task that finished first. Yield how many.

    ``kept`` counts the tasks that could not be deleted, by the table that refers to them.
    ``after`` is the last of these tasks. A later pruning that starts after that task doesn't try
    them again. ``after`` is None once all old tasks have been tried.
    """

    def __init__(
        self,
        status: Status,
        age: float,
        batch_size: int = 1_000,
        after: int | None = None,
    ) -> None:
        self.kept: Counter[str] = Counter()
        self.after = after
        self._tasks = Task.objects.filter(status=status)
        self._age = age
        self._batch_size = batch_size
        self._is_done = False

    def __next__(self) -> int:
        ids = [] if self._is_done else self._next_ids()
        # Delete in batches, since one big DELETE would keep the workers waiting for its locks.
        self._is_done = len(ids) < self._batch_size
        if not ids:
            self.after = None
            raise StopIteration
        deletion = self._tasks.filter(pk__in=ids).discard_and_report()
        self.kept.update(deletion.kept.values())
        if deletion.kept:
            self.after = next(pk for pk in reversed(ids) if pk in deletion.kept)
        if self._is_done:
            self.after = None
        return int(deletion.number)

    def _next_ids(self) -> list[int]:
        # Build this condition for each batch, since the clock goes on.
        old = self._tasks.filter(finished_at__lt=DatabaseNow(-self._age)).order_by(
            "finished_at", "id"
        )
        # Keep a task as long as it holds its unique key, for unique_for.
        old = old.filter(Q(unique_until=None) | Q(unique_until__lte=DatabaseNow()))
        if self.after is not None:
            # The database compares its own column, since SQLite can't find a time that Python
            # has read and written.
            last = self._tasks.model.objects.using(self._tasks.db).filter(pk=self.after)
            finished_at = Subquery(last.values("finished_at"))
            old = old.filter(
                Q(finished_at__gt=finished_at) | Q(pk__gt=self.after), finished_at__gte=finished_at
            )
        return list(old.values_list("pk", flat=True)[: self._batch_size])
