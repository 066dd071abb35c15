"""
Define the task, one row of the queue: its columns, indexes and constraints.

The module is long because it lists every column, index and constraint in one place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from bgtask.conf import DEFAULT_QUEUE, MAX_DURATION_SECONDS, get_settings
from bgtask.db.fields import ExactCharField, PartialIndex, UnicodeCharField, UnicodeTextField
from bgtask.db.routing import QueueManager
from bgtask.db.sql import COUNT_MAX, PRIORITY_MAX, PRIORITY_MIN, as_count
from bgtask.exceptions import MalformedTask
from bgtask.failures import MAX_MESSAGE_CHARACTERS
from bgtask.models import hooks
from bgtask.models.arguments import named
from bgtask.models.task_queryset import TaskQuerySet
from bgtask.models.worker import Worker
from bgtask.serialization import load_params
from bgtask.status import FINISHED, HeldFor, HeldWhile, Status
from bgtask.values import brief


class TaskManager(QueueManager.from_queryset(TaskQuerySet)):  # type: ignore[misc]
    def enqueue(
        self,
        task_name: str,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Task:
        """
        Store a task, and return it. The options have the plain form of ``bgtask.options``.

        The task is stored in the transaction that is open on the queue's database. If the
        caller's open transaction is on another database, the task is stored once that has been
        committed. The returned task has no primary key until then.
        """
        alias = self.all().db
        return hooks.store_task(self.model, alias, task_name, (args, kwargs or {}), options)  # type: ignore[no-any-return]

    def enqueue_many(
        self, task_name: str, params: Iterable[tuple[Sequence[Any], dict[str, Any]]], **options: Any
    ) -> int:
        """
        Store a task for each ``(args, kwargs)``, or none at all; return how many.

        One statement stores a thousand rows. The iterable is consumed as the rows are written, in
        one transaction, so memory stays flat whatever its length.
        """
        return hooks.store_tasks(self.model, self.all().db, task_name, params, options)


class Task(models.Model):
    """
    One call of a background function. One row stores the call from enqueue to prune.

    Each transition of ``bgtask.status`` has one verb, here, on the queryset or in
    ``bgtask.lifecycle``. The verb runs one UPDATE, whose WHERE checks that the transition is
    still allowed.
    """

    task_name = ExactCharField(_("task name"), max_length=255)
    task_params = UnicodeTextField(_("parameters"), default="[[], {}]", db_default="[[], {}]")
    verbose_name = UnicodeCharField(
        _("verbose name"), max_length=255, blank=True, default="", db_default=""
    )
    queue = ExactCharField(
        _("queue"), max_length=100, default=DEFAULT_QUEUE, db_default=DEFAULT_QUEUE
    )
    priority = models.IntegerField(
        _("priority"), default=0, db_default=0, help_text=_("Higher first.")
    )
    # The key that the task holds now, and the one with which it was enqueued.
    unique_key = ExactCharField(_("unique key"), max_length=255, null=True, blank=True)
    unique_name = ExactCharField(_("unique name"), max_length=255, null=True, blank=True)
    unique_while = models.CharField(  # noqa: DJ001
        _("holds its key while"), max_length=7, choices=HeldWhile, null=True, blank=True
    )
    unique_until = models.DateTimeField(_("holds its key at least until"), null=True, blank=True)

    status = models.CharField(
        _("status"),
        max_length=10,
        choices=Status,
        default=Status.READY,
        db_default=Status.READY.value,
    )
    held_for = models.CharField(  # noqa: DJ001
        _("held for"), max_length=8, choices=HeldFor, null=True, blank=True
    )
    cancel_requested = models.BooleanField(_("cancel requested"), default=False, db_default=False)

    run_at = models.DateTimeField(_("run at"), default=timezone.now)
    enqueued_at = models.DateTimeField(_("enqueued at"), default=timezone.now)
    started_at = models.DateTimeField(_("first started at"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished at"), null=True, blank=True)
    duration_ms = models.PositiveBigIntegerField(
        _("duration of the last attempt, ms"), null=True, blank=True
    )

    locked_by = models.ForeignKey(
        Worker,
        models.PROTECT,
        null=True,
        blank=True,
        db_index=False,  # See the indexes below.
        related_name="tasks",
        verbose_name=_("locked by"),
    )
    locked_at = models.DateTimeField(_("locked at"), null=True, blank=True)
    deadline_at = models.DateTimeField(_("deadline at"), null=True, blank=True)
    last_worker = ExactCharField(
        _("last worker"), max_length=255, blank=True, default="", db_default=""
    )
    token = models.PositiveBigIntegerField(_("token"), default=0, db_default=0)

    attempts = models.PositiveIntegerField(_("attempts"), default=0, db_default=0)
    crashes = models.PositiveIntegerField(_("crashes"), default=0, db_default=0)
    max_attempts = models.PositiveIntegerField(_("max attempts"), null=True, blank=True)
    max_run_time = models.FloatField(_("max run time, seconds"), null=True, blank=True)

    last_error = UnicodeTextField(_("last error"), blank=True, default="", db_default="")
    # Null: there is no error. The message of an error may be empty.
    error_message = UnicodeCharField(
        _("error message"), max_length=MAX_MESSAGE_CHARACTERS, null=True, blank=True
    )
    error_class = ExactCharField(
        _("error class"), max_length=255, blank=True, default="", db_default=""
    )
    error_fingerprint = ExactCharField(
        _("error fingerprint"), max_length=32, blank=True, default="", db_default=""
    )
    return_value = UnicodeTextField(_("return value"), null=True, blank=True)

    # Only for tasks of Django's own API: the alias in TASKS, and the id of the task's result.
    backend = ExactCharField(_("backend"), max_length=100, blank=True, default="", db_default="")
    result_id = models.UUIDField(_("result id"), null=True, blank=True)

    objects = TaskManager()

    class Meta:
        verbose_name = _("task")
        verbose_name_plural = _("tasks")
        permissions = [
            ("view_task_arguments", _("Can view the arguments and results of tasks")),
            ("view_traceback", _("Can view tracebacks and error messages")),
            ("requeue_task", _("Can requeue tasks")),
            ("cancel_task", _("Can cancel tasks")),
            ("hold_task", _("Can hold and release tasks")),
            ("pause_queue", _("Can pause and resume queues")),
            ("monitor", _("Can read health, statistics and metrics")),
        ]
        indexes = [
            # For claims, and for the choice of the queue before. Suspects have crashes > 0, so
            # their entries are separate.
            PartialIndex(
                fields=["crashes", "queue", "-priority", "run_at", "id"],
                where={"status": "READY"},
                name="bgtask_task_claim",
            ),
            # For promotion. The queue is there for counts by queue.
            PartialIndex(
                fields=["run_at", "id", "queue"],
                where={"status": "SCHEDULED"},
                name="bgtask_task_promote",
            ),
            # For the tasks that a worker holds. With this condition, PostgreSQL can use the index
            # for the foreign key as well.
            PartialIndex(
                fields=["locked_by", "id"],
                where={"locked_by__isnull": False},
                name="bgtask_task_locked",
            ),
            # On databases without partial indexes, the next two indexes contain all rows but leave
            # the status out. In all other rows their first column is null, by the constraints
            # below. So a claim and its finish need not move entries when the status changes.
            PartialIndex(
                fields=["deadline_at", "id"],
                where={"status": "RUNNING"},
                front=[],
                name="bgtask_task_deadline",
            ),
            PartialIndex(
                fields=["task_name", "id"],
                where={"status": "HELD"},
                front=["held_for"],
                name="bgtask_task_held",
            ),
            # For pruning, and for tasks that finished within a period.
            PartialIndex(
                fields=["status", "-finished_at", "-id"],
                where={"finished_at__isnull": False},
                name="bgtask_task_finished",
            ),
            PartialIndex(
                fields=["error_fingerprint", "-finished_at", "-id"],
                where={"status": "FAILED"},
                name="bgtask_task_error",
            ),
            models.Index(fields=["task_name", "-id"], name="bgtask_task_name"),
            PartialIndex(
                fields=["unique_key"],
                where={"unique_key__isnull": False},
                unique=True,
                name="bgtask_task_unique",
            ),
            PartialIndex(
                fields=["result_id"],
                where={"result_id__isnull": False},
                unique=True,
                name="bgtask_task_result",
            ),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    status="RUNNING",
                    locked_by__isnull=False,
                    locked_at__isnull=False,
                    deadline_at__isnull=False,
                )
                | ~Q(status="RUNNING")
                & Q(locked_by__isnull=True, locked_at__isnull=True, deadline_at__isnull=True),
                name="bgtask_task_running",
            ),
            models.CheckConstraint(
                condition=Q(status="HELD", held_for__isnull=False)
                | ~Q(status="HELD") & Q(held_for__isnull=True),
                name="bgtask_task_held_for",
            ),
        ]

    # The values of repeat= in the packages that bgtask replaces, in seconds. Only NEVER is
    # accepted, since tasks can't repeat yet.
    HOURLY = 3_600
    DAILY = 24 * HOURLY
    WEEKLY = 7 * DAILY
    EVERY_2_WEEKS = 2 * WEEKLY
    EVERY_4_WEEKS = 4 * WEEKLY
    NEVER = 0

    # True on a task that an enqueue found by its unique key, and did not store.
    was_there = False

    # The seconds that the task had been due when it was claimed, its place in the order of claims,
    # and the row as the driver returned it. They are set only on tasks that come from a claim.
    waited = 0.0
    claim_key: tuple[Any, ...] = ()
    returned: Sequence[Any] = ()

    def __str__(self) -> str:
        # Don't read a deferred field from the database, since this text is for the log.
        return f"{self.__dict__.get('verbose_name') or self.task_name} [{self.pk}]"

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED

    @property
    def executions_allowed(self) -> int:
        own = self.max_attempts
        return own if isinstance(own, int) and own > 0 else get_settings().max_attempts

    @property
    def has_attempts_left(self) -> bool:
        return as_count(self.attempts) < self.executions_allowed

    @property
    def is_retrying(self) -> bool:
        """Return True if the task waits for a retry. ``retry_condition`` says it in SQL."""
        return (
            self.status == Status.SCHEDULED
            and as_count(self.attempts) > 0
            and bool(self.error_class)
            and self.has_attempts_left
        )

    @property
    def seconds_allowed(self) -> float:
        """Return the task's own max_run_time, or MAX_RUN_TIME if a claim would not use its own."""
        own = self.max_run_time
        return own if _is_run_time(own) else get_settings().max_run_time

    def check_values(self) -> None:
        """Raise MalformedTask if somebody edited a value to one that bgtask never stores."""
        bad: str | None = None
        name: object = self.task_name
        if not isinstance(name, str):  # SQLite stores bytes in any column.
            bad = "task_name"
        elif not (isinstance(self.priority, int) and PRIORITY_MIN <= self.priority <= PRIORITY_MAX):
            bad = "priority"
        elif not (isinstance(self.attempts, int) and 0 <= self.attempts < COUNT_MAX):
            bad = "attempts"
        elif not (isinstance(self.crashes, int) and 0 <= self.crashes < COUNT_MAX):
            bad = "crashes"
        elif self.max_attempts is not None and (
            not isinstance(self.max_attempts, int) or not 0 <= self.max_attempts <= COUNT_MAX
        ):
            bad = "max_attempts"
        elif self.max_run_time is not None and not _is_run_time(self.max_run_time):
            bad = "max_run_time"
        if bad is not None:
            value = brief(getattr(self, bad))[:100]
            raise MalformedTask(
                f"The row of this task holds {bad}={value}, which bgtask never stores: it was "
                "edited by hand. Correct the row, then requeue the task."
            )

    def params(self) -> tuple[list[Any], dict[str, Any]]:
        """Return ``(args, kwargs)``. Raise MalformedTask if the row was broken by hand."""
        return load_params(self.task_params)

    def named_params(self) -> dict[str, Any]:
        """
        Return the parameters by name, or by number if the function is not known here.

        They are for people to read. Raise MalformedTask as ``params`` does.
        """
        return dict(named(self.task_name, *self.params()))

    # Actions of operators. Each returns whether the task was in a status that allows the action.

    def hold(self) -> bool:
        return bool(self._only().hold())

    def unhold(self) -> bool:
        return bool(self._only().unhold())

    def cancel(self, *, force: bool = False) -> bool:
        """
        Cancel the task; return whether its status allowed this.

        A running task is asked to stop. With ``force``, it is cancelled without waiting for it.
        """
        return bool(self._only().cancel(force=force))

    def requeue(self, *, reset_attempts: bool = False) -> bool:
        return bool(self._only().requeue(reset_attempts=reset_attempts))

    def give_up_key(self) -> bool:
        return bool(self._only().give_up_key())

    def _only(self) -> TaskQuerySet:
        tasks: TaskQuerySet = Task.objects.filter(pk=self.pk)
        return tasks


def _is_run_time(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 < value <= MAX_DURATION_SECONDS
