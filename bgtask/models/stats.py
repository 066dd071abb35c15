"""Figures by the minute, by which "since when" and "how much" are cheap to answer."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Count, Max
from django.utils.translation import gettext_lazy as _

from bgtask.dialects import Clock, Since
from bgtask.models.fields import ExactCharField
from bgtask.models.manager import QueueManager, database_time


class StatsQuerySet(models.QuerySet[Any]):
    def prune(self, age: float) -> int:
        """Delete what is older than so many seconds; return how many."""
        return int(self.filter(minute__lt=Clock(-age))._raw_delete(self.db))


class QueueStatsQuerySet(StatsQuerySet):
    def sample(self) -> int:
        """
        Note what stands ready now, once a minute whoever asks; return for how many queues.

        A queue that was seen within the hour and is empty now gets its zero.
        """
        now = database_time(self.db)
        minute = now.replace(second=0, microsecond=0)
        if self.filter(minute=minute).exists():
            return 0
        from bgtask.models.task import Task

        ready = Task.objects.using(self.db).ready().order_by().values_list("queue")
        rows = {
            queue: (number, age)
            for queue, number, age in ready.annotate(number=Count("pk"), age=Max(Since("run_at")))
        }
        recent = self.filter(minute__gte=Clock(-3600)).values_list("queue", flat=True)
        for queue in set(recent.distinct()) - rows.keys():
            rows[queue] = (0, 0.0)
        self.bulk_create(
            [
                self.model(
                    minute=minute,
                    queue=queue,
                    ready=number,
                    oldest_ready_age=max(int(age * 1000), 0),
                )
                for queue, (number, age) in sorted(rows.items())
            ],
            ignore_conflicts=True,
        )
        return len(rows)


class TaskStats(models.Model):
    """What became of the attempts that ended in one minute; latency and duration in ms."""

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
    """How much stood ready at one minute, and for how long the oldest; in ms."""

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
