"""The operations log, and models for pages without rows of their own."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from bgtask.db.fields import UnicodeCharField, UnicodeTextField
from bgtask.db.routing import QueueManager
from bgtask_admin.actions.registry import Verb

MAX_HISTORY_TASKS = 100  # For more tasks, an operation writes no entry for each into the history.


class OperationState(models.TextChoices):
    RUNNING = "running", _("running")
    DONE = "done", _("done")
    STOPPED = "stopped", _("stopped")


class Operation(models.Model):
    """
    One action over many tasks: its filter and options, its progress and its result.

    Tasks with an id above ``last_id`` and up to ``high_water`` remain. The next step continues
    from there, even after a crash.
    """

    # The key makes a form that is sent twice one operation.
    key = models.CharField(_("key"), max_length=64, unique=True)
    created_at = models.DateTimeField(_("when"), auto_now_add=True)
    finished_at = models.DateTimeField(_("finished at"), null=True, blank=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        # Users may be in another database, where a deletion can't update this table. The key of
        # a deleted user stays here, so never follow this key. ``by`` has the name.
        models.DO_NOTHING,
        null=True,
        blank=True,
        db_constraint=False,
        related_name="+",
        verbose_name=_("user"),
    )
    by = UnicodeCharField(_("who"), max_length=255)  # Kept when the user is deleted.
    verb = models.CharField(_("action"), max_length=20, choices=Verb)
    filter = UnicodeTextField(_("filter"), default="{}")
    filter_words = UnicodeTextField(_("tasks"), blank=True)
    options = UnicodeTextField(_("options"), default="{}")
    reason = UnicodeCharField(_("reason"), max_length=500, blank=True)
    previewed_at = models.DateTimeField(_("previewed at"))
    high_water = models.PositiveBigIntegerField(_("up to id"), default=0)
    last_id = models.PositiveBigIntegerField(_("done up to id"), default=0)
    # The chunk whose mark is not written yet: its ids, and the names of the tasks that the chunk
    # changes. Used only if the tasks are in another database.
    begun = models.TextField(_("begun"), default="", blank=True)
    matched = models.PositiveIntegerField(_("matched"), default=0)
    matched_at_least = models.BooleanField(_("more may match"), default=False)
    changed = models.PositiveIntegerField(_("changed"), default=0)
    skipped = models.PositiveIntegerField(_("skipped"), default=0)
    skipped_for = UnicodeTextField(_("skipped for"), default="{}")
    state = models.CharField(
        _("state"), max_length=10, choices=OperationState, default=OperationState.RUNNING
    )

    objects = QueueManager()

    class Meta:
        verbose_name = _("operation")
        verbose_name_plural = _("operations log")
        default_permissions = ("view",)
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.get_verb_display()}: {self.filter_words}"

    @property
    def filter_data(self) -> dict[str, str]:
        return json.loads(self.filter)  # type: ignore[no-any-return]

    @property
    def option_data(self) -> dict[str, Any]:
        return json.loads(self.options)  # type: ignore[no-any-return]

    @property
    def skipped_data(self) -> dict[str, int]:
        return json.loads(self.skipped_for)  # type: ignore[no-any-return]

    @property
    def begun_data(self) -> dict[int, str | None]:
        """Return the ids of the begun chunk, with a text for each task that the chunk changes."""
        return {int(pk): name for pk, name in json.loads(self.begun or "{}").items()}

    @property
    def is_running(self) -> bool:
        return self.state == OperationState.RUNNING

    @property
    def handled(self) -> int:
        return min(self.changed + self.skipped, self.matched)

    @property
    def is_big(self) -> bool:
        """Return True if there are too many tasks to write a history entry for each."""
        return max(self.matched, self.changed) > MAX_HISTORY_TASKS


class NoRows(QueueManager):
    """A manager that finds nothing, so that code that walks all models sees no row twice."""

    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().none()


# Entries of the admin's index. They are proxies, because any other model would need a table.
# dumpdata and other code that walks all models would read the rows of that table.


class QueueHealth(Operation):
    objects: ClassVar[NoRows] = NoRows()

    class Meta:
        proxy = True
        default_permissions = ()
        verbose_name = _("queue health")
        verbose_name_plural = _("queue health")


class TaskList(Operation):
    objects: ClassVar[NoRows] = NoRows()

    class Meta:
        proxy = True
        default_permissions = ()
        verbose_name = _("tasks")
        verbose_name_plural = _("tasks")


class ScheduleList(Operation):
    objects: ClassVar[NoRows] = NoRows()

    class Meta:
        proxy = True
        default_permissions = ()
        verbose_name = _("schedules")
        verbose_name_plural = _("schedules")
