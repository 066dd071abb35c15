from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from bgtask.db.fields import ExactCharField, UnicodeCharField, UnicodeTextField
from bgtask.db.routing import QueueManager
from bgtask.models.task import Task
from bgtask.status import AttemptOutcome


class Attempt(models.Model):
    """An attempt that did not succeed. A success writes no such row."""

    task = models.ForeignKey(Task, models.CASCADE, related_name="history", verbose_name=_("task"))
    # Unique together with the task, so that it is harmless to record the same end twice.
    token = models.PositiveBigIntegerField(_("token"))
    number = models.PositiveIntegerField(_("number"))
    worker = UnicodeCharField(_("worker"), max_length=255, blank=True)
    started_at = models.DateTimeField(_("started at"), null=True)
    finished_at = models.DateTimeField(_("finished at"))
    outcome = models.CharField(_("outcome"), max_length=20, choices=AttemptOutcome)
    error_class = UnicodeCharField(_("error class"), max_length=255, blank=True)
    message = UnicodeTextField(_("message"), blank=True)
    traceback = UnicodeTextField(_("traceback"), blank=True)
    error_fingerprint = ExactCharField(_("error fingerprint"), max_length=32, blank=True)

    objects = QueueManager()

    class Meta:
        verbose_name = _("attempt")
        verbose_name_plural = _("attempts")
        default_permissions = ()  # Pages ask for bgtask.view_traceback.
        ordering = ["task", "token"]
        constraints = [
            models.UniqueConstraint(fields=["task", "token"], name="bgtask_attempt_once")
        ]
        indexes = [
            models.Index(
                fields=["error_fingerprint", "-finished_at", "-id"], name="bgtask_attempt_error"
            ),
            models.Index(fields=["-finished_at", "-id"], name="bgtask_attempt_finished"),
        ]

    def __str__(self) -> str:
        return f"{self.task_id}, attempt {self.number}: {self.outcome}"
