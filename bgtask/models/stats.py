"""Statistics by the minute, which make "since when" and "how much" cheap to answer."""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, models, transaction
from django.db.models import Count, Max, Min, Sum
from django.utils.translation import gettext_lazy as _

from bgtask.db import DatabaseNow, SecondsSince
from bgtask.db.fields import ExactCharField
from bgtask.db.internals import delete_rows
from bgtask.db.routing import QueueManager, database_now
from bgtask.models.deletion import delete, is_referred_to

QUARTER = timedelta(minutes=15)
SETTLED = timedelta(hours=1)  # By then the slowest worker has written its outcomes.

# The queues that get rows of their own in each minute, and in each quarter of an hour. All others
# are added up in one row, under a name that no queue can have.
MOST_QUEUES = 200
OTHER_QUEUES = "(other)"

RESULTS = ("succeeded", "failed", "retried")
BACKLOG = ("ready", "oldest_ready_age")


class StatsQuerySet(models.QuerySet[Any]):
    def prune(self, age: float, batch_size: int = 1_000, kept: Counter[str] | None = None) -> int:
        """
        Delete rows older than ``age`` seconds, the oldest first; return how many.

        Add to ``kept`` how many rows could not be deleted, by the table that refers to them.
        """
        total = 0
        old = self.filter(minute__lt=DatabaseNow(-age))
        row_by_row = is_referred_to(self.model, self.db)
        # Delete in batches, since the watchdog would interrupt one DELETE of months of rows.
        while last := list(old.order_by("minute").values_list("minute", flat=True)[:batch_size])[
            -1:
        ]:
            batch = old.filter(minute__lte=last[0])
            if row_by_row:
                deletion = delete(batch)
                total += deletion.number
                if kept is not None:
                    kept.update(deletion.kept.values())
                old = old.filter(minute__gt=last[0])
                continue
            try:
                with transaction.atomic(using=self.db):
                    total += delete_rows(batch)
            except IntegrityError:
                row_by_row = True
        return total


class QueueStatsQuerySet(StatsQuerySet):
    def sample(self) -> int:
        """
        Record the READY tasks of each queue, once a minute; return the number of new rows.

        Return 0 if any caller has done so in this minute. A queue that had a row within the last
        hour and has no READY task now gets a row of zeros. If there are more than MOST_QUEUES,
        the queues with the oldest task get a row, and among equals those with the most tasks.
        """
        now = database_now(self.db)
        minute = now.replace(second=0, microsecond=0)
        if self.filter(minute=minute).exists():
            return 0
        from bgtask.models.task import Task

        # Group by crashes as well. That column is in front of the queue in the claim index, so the
        # database needs no sort.
        ready = Task.objects.using(self.db).ready().order_by().values_list("crashes", "queue")
        rows: dict[str, tuple[int, float]] = {}
        for _crashes, queue, more, age in ready.annotate(
            number=Count("pk"), age=SecondsSince(Min("run_at"))
        ):
            number, oldest = rows.get(queue, (0, 0.0))
            rows[queue] = (number + more, max(oldest, float(age or 0.0)))
        recent = self.filter(minute__gte=DatabaseNow(-3600)).values_list("queue", flat=True)
        for queue in set(recent.distinct()) - rows.keys():
            rows[queue] = (0, 0.0)
        others = rows.pop(OTHER_QUEUES, None)
        ranked = sorted(rows, key=lambda queue: (-(rows[queue][1] // 60), -rows[queue][0], queue))
        for queue in ranked[MOST_QUEUES:]:
            number, oldest = rows.pop(queue)
            so_far, age = others or (0, 0.0)
            others = (so_far + number, max(age, oldest))
        if others is not None:
            rows[OTHER_QUEUES] = others
        self.bulk_create(
            [
                self.model(
                    minute=minute,
                    queue=queue,
                    ready=number,
                    oldest_ready_age=int(age * 1000),
                )
                for queue, (number, age) in sorted(rows.items())
            ],
            batch_size=500,
            ignore_conflicts=True,
        )
        return len(rows)


class QueueHistoryQuerySet(StatsQuerySet):
    def roll_up(self) -> int:
        """
        Add up the quarters that are complete and have no row yet; return how many rows are new.

        Another process that does the same at the same time computes the same sums.
        """
        new = 0
        end = start_of_quarter(database_now(self.db) - SETTLED)
        while (begin := self._next()) is not None and begin < end:
            # Add up at most six hours at once, even if days are missing. A day of thousands of
            # queues would not fit into memory.
            new += self._add_up(begin, min(begin + timedelta(hours=6), end))
        return new

    def _next(self) -> datetime | None:
        """Return the first quarter after those added up that has minutes, or None."""
        done = self.aggregate(last=Max("minute"))["last"]
        firsts = []
        for model in (TaskStats, QueueStats):
            minutes = model.objects.using(self.db)
            if done is not None:
                minutes = minutes.filter(minute__gte=done + QUARTER)
            firsts.append(minutes.aggregate(first=Min("minute"))["first"])
        first = min((first for first in firsts if first is not None), default=None)
        return None if first is None else start_of_quarter(first)

    def _add_up(self, begin: datetime, end: datetime) -> int:
        rows: dict[tuple[datetime, str], dict[str, int]] = defaultdict(dict)
        for model, names, measure, together in (
            (TaskStats, RESULTS, Sum, operator.add),
            (QueueStats, BACKLOG, Max, max),
        ):
            minutes = model.objects.using(self.db).filter(minute__gte=begin, minute__lt=end)
            figures = minutes.values_list("minute", "queue").annotate(*map(measure, names))
            for minute, queue, *numbers in figures:
                row = rows[start_of_quarter(minute), queue]
                for name, number in zip(names, numbers, strict=True):
                    row[name] = together(row.get(name, 0), int(number))
        rows = _bounded(rows)
        with transaction.atomic(using=self.db):  # Write all queues of a quarter, or none.
            self.bulk_create(
                [self.model(minute=minute, queue=queue, **row)
                 for (minute, queue), row in sorted(rows.items())],
                batch_size=500,
                ignore_conflicts=True,
            )  # fmt: skip
        return len(rows)


def _bounded(
    rows: dict[tuple[datetime, str], dict[str, int]],
) -> dict[tuple[datetime, str], dict[str, int]]:
    """Return each quarter's rows for its busiest queues, and one row for all its others."""
    quarters: dict[datetime, list[str]] = defaultdict(list)
    for quarter, queue in rows:
        quarters[quarter].append(queue)
    bounded: dict[tuple[datetime, str], dict[str, int]] = defaultdict(dict)
    for quarter, queues in quarters.items():

        def weight(queue: str, quarter: datetime = quarter) -> tuple[int, str]:
            row = rows[quarter, queue]
            return -sum(row.get(name, 0) for name in (*RESULTS, "ready")), queue

        own = set(sorted((one for one in queues if one != OTHER_QUEUES), key=weight)[:MOST_QUEUES])
        for queue in queues:
            row = bounded[quarter, queue if queue in own else OTHER_QUEUES]
            for name, number in rows[quarter, queue].items():
                together = max if name == "oldest_ready_age" else operator.add
                row[name] = together(row.get(name, 0), number)
    return bounded


def start_of_quarter(when: datetime) -> datetime:
    return when.replace(minute=when.minute // 15 * 15, second=0, microsecond=0)


class TaskStats(models.Model):
    """How the attempts of one minute ended. Latency and duration are in milliseconds."""

    minute = models.DateTimeField(_("minute"))
    queue = ExactCharField(_("queue"), max_length=100)
    task_name = ExactCharField(_("task name"), max_length=255)
    succeeded = models.PositiveIntegerField(_("succeeded"), default=0)
    failed = models.PositiveIntegerField(_("failed"), default=0)
    retried = models.PositiveIntegerField(_("retried"), default=0)
    latency_sum = models.PositiveBigIntegerField(_("summed latency"), default=0)
    latency_max = models.PositiveBigIntegerField(_("greatest latency"), default=0)
    duration_sum = models.PositiveBigIntegerField(_("summed duration"), default=0)
    duration_max = models.PositiveBigIntegerField(_("greatest duration"), default=0)

    objects = QueueManager.from_queryset(StatsQuerySet)()

    class Meta:
        verbose_name = _("task statistics")
        verbose_name_plural = _("task statistics")
        default_permissions = ("view",)
        constraints = [
            models.UniqueConstraint(
                fields=["minute", "queue", "task_name"], name="bgtask_taskstats_key"
            )
        ]

    def __str__(self) -> str:
        return f"{self.minute:%Y-%m-%d %H:%M} {self.queue} {self.task_name}"


class QueueStats(models.Model):
    """The READY tasks of a queue at one minute, and the age of the oldest in milliseconds."""

    minute = models.DateTimeField(_("minute"))
    queue = ExactCharField(_("queue"), max_length=100)
    ready = models.PositiveIntegerField(_("ready"))
    oldest_ready_age = models.PositiveBigIntegerField(_("age of the oldest ready"))

    objects = QueueManager.from_queryset(QueueStatsQuerySet)()

    class Meta:
        verbose_name = _("queue statistics")
        verbose_name_plural = _("queue statistics")
        default_permissions = ("view",)
        constraints = [
            models.UniqueConstraint(fields=["minute", "queue"], name="bgtask_queuestats_key")
        ]

    def __str__(self) -> str:
        return f"{self.minute:%Y-%m-%d %H:%M} {self.queue}"


class QueueHistory(models.Model):
    """The sums of one queue's tasks in a quarter of an hour. Charts of days read these rows."""

    minute = models.DateTimeField(_("first minute"))
    queue = ExactCharField(_("queue"), max_length=100)
    succeeded = models.PositiveBigIntegerField(_("succeeded"), default=0)
    failed = models.PositiveBigIntegerField(_("failed"), default=0)
    retried = models.PositiveBigIntegerField(_("retried"), default=0)
    # The greatest values of the minutes, or null if no minute has a sample.
    ready = models.PositiveIntegerField(_("ready"), null=True)
    oldest_ready_age = models.PositiveBigIntegerField(_("age of the oldest ready"), null=True)

    objects = QueueManager.from_queryset(QueueHistoryQuerySet)()

    class Meta:
        verbose_name = _("queue history")
        verbose_name_plural = _("queue histories")
        default_permissions = ("view",)
        constraints = [
            models.UniqueConstraint(fields=["minute", "queue"], name="bgtask_queuehistory_key")
        ]

    def __str__(self) -> str:
        return f"{self.minute:%Y-%m-%d %H:%M} {self.queue}"
