"""Hold and unhold a task type, pause and resume a queue, rescue the tasks of a lost worker."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext as _

from bgtask.db.routing import database_now, queue_alias
from bgtask.lifecycle.attempts import Outcome
from bgtask.lifecycle.rescue import rescue_tasks
from bgtask.models import QueuePause, Task, TaskHold, Worker, hooks
from bgtask.status import WorkerState
from bgtask_admin.actions import run
from bgtask_admin.actions.immediate import done, entry
from bgtask_admin.actions.preview import Preview
from bgtask_admin.actions.recording import name_of, recorded, stop
from bgtask_admin.actions.registry import ACTIONS, Verb
from bgtask_admin.models import Operation, OperationState
from bgtask_admin.tasks.selection import Selection


def hold_type(
    task_name: str, *, user: Any, reason: str = "", minutes: int | None = None
) -> Operation:
    """
    Hold waiting and future tasks of this name. Running tasks continue.

    The steps of the operation hold the waiting tasks. Workers set aside tasks enqueued later.
    """
    now, hold = _limits(TaskHold, reason, minutes)
    hold |= {"held_at": now, "held_by": name_of(user)}
    with recorded(_start(Verb.HOLD_TYPE, task_name, user, reason)) as operation:
        _stop_running(Verb.RELEASE_TYPE, task_name)
        TaskHold.objects.update_or_create(task_name=task_name, defaults=hold)
    return operation


def release_type(task_name: str, *, user: Any) -> Operation:
    """End the hold on this name. The steps of the operation unhold the held tasks."""
    with recorded(_start(Verb.RELEASE_TYPE, task_name, user)) as operation:
        _stop_running(Verb.HOLD_TYPE, task_name)
        TaskHold.objects.filter(task_name=task_name).delete()
    return operation


def pause(queue: str, *, user: Any, reason: str = "", minutes: int | None = None) -> Operation:
    """Stop workers from claiming tasks of this queue. Waiting tasks keep their status."""
    now, pause = _limits(QueuePause, reason, minutes)
    pause |= {"paused_at": now, "paused_by": name_of(user)}
    with recorded(entry(Verb.PAUSE, {"queue": queue}, user, reason), done) as operation:
        QueuePause.objects.update_or_create(queue=queue, defaults=pause)
    return operation


def resume(queue: str, *, user: Any) -> Operation:
    """Let workers claim tasks of this queue again."""
    with recorded(entry(Verb.RESUME, {"queue": queue}, user), done) as operation:
        QueuePause.objects.filter(queue=queue).delete()
    return operation


def release_tasks_of(worker: Worker, *, user: Any) -> Operation:
    """
    Rescue the tasks of a worker that is dead, or silent for longer than its lease.

    Raise ValidationError if the worker is alive, because its tasks are running.
    """
    with recorded(entry(Verb.RESCUE, {"worker": worker.label}, user), done) as operation:
        Worker.objects.silent().filter(pk=worker.pk).declare_dead()
        worker.refresh_from_db()
        if worker.state != WorkerState.DEAD:
            raise ValidationError(_("%s is alive: its tasks are running.") % worker)
        held = Task.objects.filter(locked_by=worker.pk)
        operation.matched = held.count()
        rescued: list[Outcome] = []
        operation.changed = rescue_tasks(
            held, _("returned to the queue by %s") % name_of(user), rescued.extend
        )
        # A worker logs, signals and counts the tasks that it rescues. Do so here as well.
        dispatch = partial(hooks.dispatch_rescued, rescued)
        transaction.on_commit(dispatch, using=queue_alias(), robust=True)
        operation.skipped = max(operation.matched - operation.changed, 0)
    return operation


def _stop_running(verb: Verb, task_name: str) -> None:
    """
    Stop the running operations of this verb for this task type.

    Their next step would undo what is done now.
    """
    for operation in Operation.objects.filter(verb=verb, state=OperationState.RUNNING):
        if operation.filter_data == {"task": task_name}:
            stop(operation)


def _limits(model: Any, reason: str, minutes: int | None) -> tuple[datetime, dict[str, Any]]:
    """Return the database's time, and the end and the reason as columns of this model."""
    now = database_now(model.objects.all().db)
    expires_at = now + timedelta(minutes=minutes) if minutes else None
    return now, {"expires_at": expires_at, "reason": reason[:500]}


def _start(verb: Verb, task_name: str, user: Any, reason: str = "") -> Callable[[], Operation]:
    """Return a function that stores the log entry of an action that steps through tasks."""
    preview = Preview.take(ACTIONS[verb], Selection.parse({"task": task_name}))
    return partial(run.start, preview, {}, user=user, reason=reason)
