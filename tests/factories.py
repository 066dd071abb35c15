"""Rows in states that are laborious to reach; each is one that the constraints allow."""

from __future__ import annotations

from typing import Any

import factory
from factory.django import DjangoModelFactory

from bgtask.dialects import Clock
from bgtask.models import Task, Worker
from bgtask.status import FINISHED, HeldFor, Status, WorkerState


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
