"""Define the schedules, and the decisions about their slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from django.db import models
from django.db.models import Exists, F, Q
from django.utils.translation import gettext_lazy as _

from bgtask.db import DatabaseNow, SecondsSince
from bgtask.db.fields import ExactCharField, PartialIndex, UnicodeCharField, UnicodeTextField
from bgtask.db.routing import QueueManager
from bgtask.models import hooks
from bgtask.models.arguments import named
from bgtask.models.worker import Worker
from bgtask.serialization import load_params

# A schedule is late if its next slot is past for so long, in addition to its grace.
LATE_SECONDS, VERY_LATE_SECONDS = 60, 600
# A schedule of the code that no living worker has declared for so long is not expected to fire.
DECLARED_SECONDS = 1_800


class Kind(models.TextChoices):
    """How a schedule says when its slots are."""

    CRON = "cron", _("cron expression")
    EVERY = "every", _("interval")
    AT = "at", _("once")


class Misfire(models.TextChoices):
    """What happens to slots that no worker decided in time."""

    ONE = "one", _("run once, for the newest")
    NONE = "none", _("run none")
    ALL = "all", _("run all")


class Overlap(models.TextChoices):
    """What happens at a slot while the last task is still live."""

    SKIP = "skip", _("skip the slot")
    ALLOW = "allow", _("run both")
    CANCEL = "cancel", _("cancel the last task")


class Source(models.TextChoices):
    """Who defines a schedule."""

    CODE = "code", _("code")
    ADMIN = "admin", _("admin")


class Decision(models.TextChoices):
    """What was decided about a slot."""

    ENQUEUED = "enqueued", _("enqueued")
    BUSY = "busy", _("skipped: still busy")
    MISSED = "missed", _("missed")
    BY_HAND = "by_hand", _("by hand")


class ScheduleQuerySet(models.QuerySet[Any]):
    def active(self) -> ScheduleQuerySet:
        """Return the schedules that are neither paused nor retired."""
        return self.filter(paused_at=None, retired_at=None)

    def due(self) -> ScheduleQuerySet:
        return self.active().filter(next_at__lte=DatabaseNow()).order_by("next_at", "id")

    def expected(self) -> ScheduleQuerySet:
        """
        Return the active schedules, without those of code that the workers don't have any more.

        If there is no worker, all of them are expected, and nobody fires them.
        """
        return self.active().filter(
            Q(source=Source.ADMIN)
            | Q(declared_at__gt=DatabaseNow(-DECLARED_SECONDS))
            | ~Exists(Worker.objects.alive())
        )

    def late(self, seconds: int = LATE_SECONDS) -> ScheduleQuerySet:
        """Return the schedules whose next slot no worker has decided in time."""
        # The first condition is one that the index can answer.
        late: ScheduleQuerySet = self.expected().filter(next_at__lt=DatabaseNow(-seconds))
        late = late.alias(late_by=SecondsSince("next_at"))
        return late.filter(late_by__gt=F("grace") + seconds)


class ScheduleManager(QueueManager.from_queryset(ScheduleQuerySet)):  # type: ignore[misc]
    def create_once(
        self,
        task: Any,
        *,
        at: datetime,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        key: str = "",
        **options: Any,
    ) -> Schedule:
        """
        Store a schedule that enqueues one task, and return it.

        ``task`` is a background function, a task of Django's API or the name of one. ``key`` is
        the name of the schedule. By default, it is that of the task with the time. Further options
        are those of ``@recurring``. Raise InvalidOption if one is wrong or the time is past.
        """
        name = getattr(task, "module_path", None) or getattr(task, "name", task)
        return hooks.create_schedule(  # type: ignore[no-any-return]
            key or f"{name} {at:%Y-%m-%d %H:%M:%S}", name, args, kwargs or {}, at=at, **options
        )


class Schedule(models.Model):
    """
    A rule for recurring tasks. ``next_at`` is its next slot that nobody has decided yet.

    An UPDATE that moves ``next_at`` decides all slots until then. Its WHERE checks ``next_at`` and
    ``revision``, so that one process decides each slot, and none by an old definition.
    """

    key = ExactCharField(_("key"), max_length=255, unique=True)
    task_name = ExactCharField(_("task name"), max_length=255)
    task_params = UnicodeTextField(_("parameters"), default="[[], {}]", db_default="[[], {}]")
    # Null: as the function says.
    queue = ExactCharField(_("queue"), max_length=100, null=True, blank=True)
    priority = models.IntegerField(_("priority"), null=True, blank=True)

    kind = models.CharField(_("kind"), max_length=5, choices=Kind)
    expression = ExactCharField(_("expression"), max_length=255)
    time_zone = models.CharField(_("time zone"), max_length=64, blank=True, default="")
    start_at = models.DateTimeField(_("start"), null=True, blank=True)
    end_at = models.DateTimeField(_("end"), null=True, blank=True)
    jitter = models.PositiveIntegerField(_("jitter, seconds"), default=0)
    misfire = models.CharField(
        _("missed slots"), max_length=4, choices=Misfire, default=Misfire.ONE
    )
    grace = models.PositiveIntegerField(_("grace, seconds"), default=60)
    overlap = models.CharField(_("overlap"), max_length=6, choices=Overlap, default=Overlap.SKIP)

    source = models.CharField(_("defined by"), max_length=5, choices=Source)
    declared = UnicodeTextField(_("definition in the code"), blank=True, default="")
    declared_at = models.DateTimeField(_("declared at"), null=True, blank=True)
    overridden_at = models.DateTimeField(_("overridden at"), null=True, blank=True)
    overridden_by = UnicodeCharField(_("overridden by"), max_length=255, blank=True, default="")
    paused_at = models.DateTimeField(_("paused at"), null=True, blank=True)
    paused_by = UnicodeCharField(_("paused by"), max_length=255, blank=True, default="")
    reason = UnicodeCharField(_("reason"), max_length=500, blank=True, default="")
    retired_at = models.DateTimeField(_("retired at"), null=True, blank=True)

    next_at = models.DateTimeField(_("next"), null=True, blank=True)  # Null: there is none.
    last_slot = models.DateTimeField(_("last slot"), null=True, blank=True)
    last_task = models.BigIntegerField(_("last task"), null=True, blank=True)
    revision = models.PositiveIntegerField(_("revision"), default=0)

    objects: ClassVar[Any] = ScheduleManager()

    class Meta:
        verbose_name = _("schedule")
        verbose_name_plural = _("schedules")
        default_permissions = ("view", "change")
        permissions = [
            ("pause_schedule", _("Can pause and resume schedules")),
            ("run_schedule", _("Can run schedules now")),
        ]
        indexes = [
            PartialIndex(
                fields=["next_at", "id"],
                where={
                    "next_at__isnull": False,
                    "paused_at__isnull": True,
                    "retired_at__isnull": True,
                },
                name="bgtask_schedule_due",
            ),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(end_at=None) | Q(start_at=None) | Q(end_at__gt=F("start_at")),
                name="bgtask_schedule_period",
            ),
        ]

    def __str__(self) -> str:
        return self.key

    def named_params(self) -> dict[str, Any]:
        """Return the parameters by name, as ``Task.named_params`` does."""
        return dict(named(self.task_name, *load_params(self.task_params)))

    @property
    def is_overridden(self) -> bool:
        return self.overridden_at is not None

    @property
    def is_active(self) -> bool:
        return self.paused_at is None and self.retired_at is None


class Slot(models.Model):
    """
    A decision about one slot of a schedule, or a run by hand, which has no slot.

    ``missed`` is the number of earlier slots for which no task was enqueued. ``task`` is no
    foreign key, since tasks are pruned.
    """

    schedule = models.ForeignKey(
        Schedule,
        models.CASCADE,
        db_index=False,  # See the indexes below.
        related_name="slots",
        verbose_name=_("schedule"),
    )
    slot = models.DateTimeField(_("slot"), null=True, blank=True)
    decision = models.CharField(_("decision"), max_length=8, choices=Decision)
    missed = models.PositiveIntegerField(_("missed"), default=0)
    task = models.BigIntegerField(_("task"), null=True, blank=True)
    decided_at = models.DateTimeField(_("decided at"))
    worker = ExactCharField(_("decided by"), max_length=255, blank=True, default="")

    objects: ClassVar[Any] = QueueManager()

    class Meta:
        verbose_name = _("slot")
        verbose_name_plural = _("slots")
        default_permissions = ()
        indexes = [
            models.Index(fields=["schedule", "-id"], name="bgtask_slot_schedule"),
            models.Index(fields=["task"], name="bgtask_slot_task"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["schedule", "slot"], name="bgtask_slot_once"),
        ]

    def __str__(self) -> str:
        return f"{self.schedule_id} {self.slot}"
