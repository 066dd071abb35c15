"""Rows in states that are laborious to reach; each is one that the constraints allow."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import factory
from factory.django import DjangoModelFactory

from bgtask.dialects import Clock
from bgtask.models import Attempt, QueuePause, QueueStats, Task, TaskHold, TaskStats, Worker
from bgtask.models.manager import database_time
from bgtask.status import FINISHED, AttemptOutcome, HeldFor, Status, WorkerState


class RowFactory(DjangoModelFactory):
    class Meta:
        abstract = True

    @classmethod
    def _create(cls, model_class: Any, *args: Any, **kwargs: Any) -> Any:
        row = super()._create(model_class, *args, **kwargs)
        row.refresh_from_db()  # Times are the database's: read what it made of Clock(…).
        return row


class WorkerFactory(RowFactory):
    """One that has just beaten; ``dead=True`` or ``silent=True`` for one that has not."""

    class Meta:
        model = Worker

    class Params:
        silent = factory.Trait(lease_expires_at=Clock(-1))
        stopped = factory.Trait(state=WorkerState.STOPPING, stopped_at=Clock(-10))
        dead = factory.Trait(state=WorkerState.DEAD)

    host = "host"
    pid = factory.Sequence(lambda number: number + 1)
    label = factory.LazyAttribute(lambda worker: f"{worker.host}:{worker.pid}")
    started_at = Clock(-60)
    heartbeat_at = Clock()
    lease_expires_at = Clock(60)


class TaskFactory(RowFactory):
    """``TaskFactory(status=…)`` is a task as it would stand there; READY if not said."""

    class Meta:
        model = Task

    task_name = "tests.tasks.noop"
    status = Status.READY
    held_for = factory.LazyAttribute(
        lambda task: HeldFor.OPERATOR if task.status == Status.HELD else None
    )
    run_at = factory.LazyAttribute(
        lambda task: Clock(3600 if task.status == Status.SCHEDULED else -60)
    )
    enqueued_at = Clock(-60)
    locked_by = factory.LazyAttribute(
        lambda task: WorkerFactory() if task.status == Status.RUNNING else None
    )
    last_worker = factory.LazyAttribute(lambda task: task.locked_by.label if task.locked_by else "")
    locked_at = factory.LazyAttribute(
        lambda task: Clock(-1) if task.status == Status.RUNNING else None
    )
    deadline_at = factory.LazyAttribute(
        lambda task: Clock(3600) if task.status == Status.RUNNING else None
    )
    finished_at = factory.LazyAttribute(lambda task: Clock(-1) if task.status in FINISHED else None)
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
    started_at = Clock(-2)
    finished_at = Clock(-1)
    outcome = AttemptOutcome.FAILED
    error_class = "ValueError"
    message = "no luck"
    error_fingerprint = "f" * 32


class TaskStatsFactory(DjangoModelFactory):
    """What became of the attempts of one minute; ``minute`` says how many minutes ago, or which."""

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
    """What stood ready at one minute; ``minute`` says how many minutes ago, or which."""

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
    paused_at = Clock(-60)
    paused_by = "ann"


class HoldFactory(DjangoModelFactory):
    """A kind of task that is not started."""

    class Meta:
        model = TaskHold

    task_name = "tests.tasks.noop"
    held_at = Clock(-60)
    held_by = "ann"


def minutes_ago(number: int) -> datetime:
    """The beginning of a minute, by the clock of the database."""
    now = database_time(Task.objects.all().db)
    return now.replace(second=0, microsecond=0) - timedelta(minutes=number)
