"""What operators did, and the pages that have no rows of their own."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from bgtask.db.fields import UnicodeCharField, UnicodeTextField
from bgtask.db.routing import QueueManager
from bgtask_admin.actions.registry import Verb


class OperationState(models.TextChoices):
    RUNNING = "running", _("running")
    DONE = "done", _("done")
    STOPPED = "stopped", _("stopped")


class Operation(models.Model):
    """
    One verb over many tasks: what was asked for, how far it is, and what came of it.

    The rows above ``last_id`` and up to ``high_water`` are still to do; whoever steps it next,
    after a crash too, goes on from there.
    """

    key = models.CharField(_("key"), max_length=64, unique=True)  # A form sent twice is one.
    created_at = models.DateTimeField(_("when"), auto_now_add=True)
    finished_at = models.DateTimeField(_("finished at"), null=True, blank=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        # Users may be in another database, where a deletion cannot update this table. The key of
        # a deleted user stays here, so never follow it: ``by`` has the name.
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
    # The chunk whose mark is not written yet: ids, and the names of those that it changes. Used
    # only where the tasks are in another database.
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
        """The ids of the begun chunk, with a text for each task that the chunk changes."""
        return {int(pk): name for pk, name in json.loads(self.begun or "{}").items()}

    @property
    def is_running(self) -> bool:
        return self.state == OperationState.RUNNING

    @property
    def handled(self) -> int:
        return min(self.changed + self.skipped, self.matched)

    @property
    def is_big(self) -> bool:
        """Too many tasks for an entry in the history of each."""
        return max(self.matched, self.changed) > 100


class NoRows(QueueManager):
    """Find nothing, so that code that walks all models doesn't meet an operation twice."""

    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().none()


# Entries of the admin's index. They are proxies, since a model of its own would need a table:
# dumpdata, and other code that walks all models, reads the rows of each.


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
