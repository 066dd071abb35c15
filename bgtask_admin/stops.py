"""Stop a kind of task or a queue, and let it go on; return a lost worker's tasks."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.translation import gettext as _

from bgtask.models import QueuePause, Task, TaskHold, Worker
from bgtask.models.manager import database_time
from bgtask.status import WorkerState
from bgtask_admin import operations
from bgtask_admin.models import Operation, OperationState
from bgtask_admin.preview import Preview
from bgtask_admin.recording import recorded
from bgtask_admin.selection import Selection
from bgtask_admin.verbs import ACTIONS, Verb


def hold_type(
    task_name: str, *, user: Any, reason: str = "", minutes: int | None = None
) -> Operation:
    """
    Stop tasks of this name, waiting and coming ones; those that run go on.

    The steps of the operation move waiting ones aside; workers put aside what is enqueued later.
    """
    now, hold = _limits(TaskHold, reason, minutes)
    hold |= {"held_at": now, "held_by": user.get_username()[:255]}
    with recorded(_start(Verb.HOLD_TYPE, task_name, user, reason)) as operation:
        TaskHold.objects.update_or_create(task_name=task_name, defaults=hold)
    return operation


def release_type(task_name: str, *, user: Any) -> Operation:
    """Let tasks of this name be started again; the steps of the operation release held ones."""
    with recorded(_start(Verb.RELEASE_TYPE, task_name, user)) as operation:
        TaskHold.objects.filter(task_name=task_name).delete()
    return operation


def pause(queue: str, *, user: Any, reason: str = "", minutes: int | None = None) -> Operation:
    """Nothing more of this queue is started; what waits stays where it is."""
    now, pause = _limits(QueuePause, reason, minutes)
    pause |= {"paused_at": now, "paused_by": user.get_username()[:255]}
    with recorded(_note(Verb.PAUSE, {"queue": queue}, user, reason), _done) as operation:
        QueuePause.objects.update_or_create(queue=queue, defaults=pause)
    return operation


def resume(queue: str, *, user: Any) -> Operation:
    """Let tasks of this queue be started again."""
    with recorded(_note(Verb.RESUME, {"queue": queue}, user), _done) as operation:
        QueuePause.objects.filter(queue=queue).delete()
    return operation


def release_tasks_of(worker: Worker, *, user: Any) -> Operation:
    """
    Take back what a worker holds that is dead, or silent for longer than its lease.

    Raises ValidationError for one that is alive: its tasks are running.
    """
    with recorded(_note(Verb.RESCUE, {"worker": worker.label}, user), _done) as operation:
        Worker.objects.silent().filter(pk=worker.pk).declare_dead()
        worker.refresh_from_db()
        if worker.state != WorkerState.DEAD:
            raise ValidationError(_("%s is alive: its tasks are running.") % worker)
        held = Task.objects.filter(locked_by=worker.pk)
        operation.matched = held.count()
        operation.changed = held.rescue(_("returned to the queue by %s") % user.get_username())
        operation.skipped = max(operation.matched - operation.changed, 0)
    return operation


def _limits(model: Any, reason: str, minutes: int | None) -> tuple[datetime, dict[str, Any]]:
    """Return the database's time, and when and why the row of this model holds."""
    now = database_time(model.objects.all().db)
    expires_at = now + timedelta(minutes=minutes) if minutes else None
    return now, {"expires_at": expires_at, "reason": reason[:500]}


def _start(verb: Verb, task_name: str, user: Any, reason: str = "") -> Callable[[], Operation]:
    """Return what stores the entry of a verb that steps through tasks."""
    preview = Preview.take(ACTIONS[verb], Selection.parse({"task": task_name}))
    return partial(operations.start, preview, {}, user=user, reason=reason)


def _note(
    verb: Verb, names: dict[str, str], user: Any, reason: str = ""
) -> Callable[[], Operation]:
    """Return what stores the entry of a verb that is done at once."""
    return partial(
        Operation.objects.create,
        key=secrets.token_hex(16),
        user_id=user.pk,
        by=user.get_username()[:255],
        verb=verb,
        filter=json.dumps(names),
        filter_words=" · ".join(names.values()),
        reason=reason[:500],
        previewed_at=timezone.now(),
    )


def _done(operation: Operation) -> None:
    operation.state = OperationState.DONE
    operation.finished_at = timezone.now()
    operation.save()
    operations.log_one(operation)
