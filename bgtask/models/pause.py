"""What operators stopped: whole queues, and kinds of task."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from bgtask.db import DatabaseNow
from bgtask.db.fields import ExactCharField, UnicodeCharField
from bgtask.db.routing import QueueManager


class StopQuerySet(models.QuerySet[Any]):
    def in_force(self) -> StopQuerySet:
        return self.filter(Q(until=None) | Q(until__gt=DatabaseNow()))

    def over(self) -> StopQuerySet:
        return self.filter(until__lte=DatabaseNow())


class Stop(models.Model):
    """Since when, until when, by whom and why. No row: not stopped."""

    since = models.DateTimeField(_("since"))
    until = models.DateTimeField(_("until"), null=True, blank=True)
    by = UnicodeCharField(_("by"), max_length=255, blank=True)
    reason = UnicodeCharField(_("reason"), max_length=500, blank=True)

    objects: ClassVar[Any] = QueueManager.from_queryset(StopQuerySet)()

    class Meta:
        abstract = True


class Queue(Stop):
    """A paused queue. A queue exists because a task names it, not because of a row here."""

    name = ExactCharField(_("name"), max_length=100, unique=True)

    class Meta:
        verbose_name = _("paused queue")
        verbose_name_plural = _("paused queues")

    def __str__(self) -> str:
        return self.name


class Hold(Stop):
    """Tasks of this name are not started."""

    task_name = ExactCharField(_("task name"), max_length=255, unique=True)

    class Meta:
        verbose_name = _("hold")
        verbose_name_plural = _("holds")

    def __str__(self) -> str:
        return self.task_name
