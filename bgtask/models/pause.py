"""Define the rows by which operators stop whole queues, or all tasks of one name."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from bgtask.dialects import Clock
from bgtask.models.fields import ExactCharField, UnicodeCharField
from bgtask.models.manager import QueueManager


class ExpiringQuerySet(models.QuerySet[Any]):
    """Rows that hold until ``expires_at`` or, without it, until somebody deletes them."""

    def in_force(self) -> ExpiringQuerySet:
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=Clock()))

    def expired(self) -> ExpiringQuerySet:
        return self.filter(expires_at__lte=Clock())


class QueuePause(models.Model):
    """
    A paused queue: its tasks stay READY, and no worker starts them.

    A queue without a row is not paused. It exists because a task names it.
    """

    queue = ExactCharField(_("queue"), max_length=100, unique=True)
    paused_at = models.DateTimeField(_("paused at"))
    expires_at = models.DateTimeField(_("expires at"), null=True, blank=True)
    paused_by = UnicodeCharField(_("paused by"), max_length=255, blank=True)
    reason = UnicodeCharField(_("reason"), max_length=500, blank=True)

    objects: ClassVar[Any] = QueueManager.from_queryset(ExpiringQuerySet)()

    class Meta:
        verbose_name = _("paused queue")
        verbose_name_plural = _("paused queues")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.queue


class TaskHold(models.Model):
    """A name on hold: no worker starts the tasks of this name."""

    task_name = ExactCharField(_("task name"), max_length=255, unique=True)
    held_at = models.DateTimeField(_("held at"))
    expires_at = models.DateTimeField(_("expires at"), null=True, blank=True)
    held_by = UnicodeCharField(_("held by"), max_length=255, blank=True)
    reason = UnicodeCharField(_("reason"), max_length=500, blank=True)

    objects: ClassVar[Any] = QueueManager.from_queryset(ExpiringQuerySet)()

    class Meta:
        verbose_name = _("task on hold")
        verbose_name_plural = _("tasks on hold")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.task_name
