"""Create rows in states that are laborious to reach. The constraints allow each of them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import factory
from factory.django import DjangoModelFactory

from bgtask.db import DatabaseNow
from bgtask.db.routing import database_now
from bgtask.models import Attempt, QueuePause, QueueStats, Task, TaskHold, TaskStats, Worker
from bgtask.status import FINISHED, AttemptOutcome, HeldFor, Status, WorkerState


class RowFactory(DjangoModelFactory):
    class Meta:
        abstract = True

    @classmethod
    def _create(cls, model_class: Any, *args: Any, **kwargs: Any) -> Any:
        row = super()._create(model_class, *args, **kwargs)
        row.refresh_from_db()  # Read the times that the database computed for DatabaseNow(…).
        return row


class WorkerFactory(RowFactory):
    """A worker with a recent heartbeat, or without one: ``dead=True``, ``silent=True``."""

    class Meta:
        model = Worker

    class Params:
        silent = factory.Trait(lease_expires_at=DatabaseNow(-1))
        stopped = factory.Trait(state=WorkerState.STOPPING, stopped_at=DatabaseNow(-10))
        dead = factory.Trait(state=WorkerState.DEAD)

    host = "host"
    pid = factory.Sequence(lambda number: number + 1)
    label = factory.LazyAttribute(lambda worker: f"{worker.host}:{worker.pid}")
    started_at = DatabaseNow(-60)
    heartbeat_at = DatabaseNow()
    lease_expires_at = DatabaseNow(60)


class TaskFactory(RowFactory):
    """A task with the columns that its ``status`` needs. The default status is READY."""

    class Meta:
        model = Task

    task_name = "tests.tasks.noop"
    status = Status.READY
    held_for = factory.LazyAttribute(
        lambda task: HeldFor.OPERATOR if task.status == Status.HELD else None
    )
    run_at = factory.LazyAttribute(
        lambda task: DatabaseNow(3600 if task.status == Status.SCHEDULED else -60)
    )
    enqueued_at = DatabaseNow(-60)
    locked_by = factory.LazyAttribute(
        lambda task: WorkerFactory() if task.status == Status.RUNNING else None
    )
    last_worker = factory.LazyAttribute(lambda task: task.locked_by.label if task.locked_by else "")
    locked_at = factory.LazyAttribute(
        lambda task: DatabaseNow(-1) if task.status == Status.RUNNING else None
    )
    deadline_at = factory.LazyAttribute(
        lambda task: DatabaseNow(3600) if task.status == Status.RUNNING else None
    )
    finished_at = factory.LazyAttribute(
        lambda task: DatabaseNow(-1) if task.status in FINISHED else None
    )
    attempts = factory.LazyAttribute(
        lambda task: 0 if task.status in (Status.SCHEDULED, Status.READY, Status.HELD) else 1
    )
    token = factory.LazyAttribute(lambda task: task.attempts)


class AttemptFactory(RowFactory):
    """An attempt that failed a moment ago."""

    class Meta:
        model = Attempt

    task = factory.SubFactory(TaskFactory, status=Status.FAILED)
    token = factory.Sequence(lambda number: number + 1)
    number = 1
    started_at = DatabaseNow(-2)
    finished_at = DatabaseNow(-1)
    outcome = AttemptOutcome.FAILED
    error_class = "ValueError"
    message = "no luck"
    error_fingerprint = "f" * 32


class TaskStatsFactory(DjangoModelFactory):
    """Statistics of one minute. ``minute`` is a datetime, or how many minutes ago it was."""

    class Meta:
        model = TaskStats

    minute = 1
    queue = "default"
    task_name = "tests.tasks.noop"

    @classmethod
    def _create(cls, model_class: Any, *args: Any, minute: int | datetime, **kwargs: Any) -> Any:
        if isinstance(minute, int):
            minute = minutes_ago(minute)
        return super()._create(model_class, *args, minute=minute, **kwargs)


class QueueStatsFactory(TaskStatsFactory):
    """READY tasks at one minute. ``minute`` is a datetime, or how many minutes ago it was."""

    class Meta:
        model = QueueStats
        exclude = ("task_name",)

    ready = 0
    oldest_ready_age = 0


class PauseFactory(DjangoModelFactory):
    """A paused queue."""

    class Meta:
        model = QueuePause

    queue = "default"
    paused_at = DatabaseNow(-60)
    paused_by = "ann"


class HoldFactory(DjangoModelFactory):
    """A hold: tasks of this name are not started."""

    class Meta:
        model = TaskHold

    task_name = "tests.tasks.noop"
    held_at = DatabaseNow(-60)
    held_by = "ann"


def minutes_ago(number: int) -> datetime:
    """Return the beginning of the minute ``number`` minutes ago, by the clock of the database."""
    now = database_now(Task.objects.all().db)
    return now.replace(second=0, microsecond=0) - timedelta(minutes=number)
