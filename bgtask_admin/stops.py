"""Stop a kind of task or a queue, and let it go on; take back what a dead worker holds."""

from __future__ import annotations

import json
import secrets
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from bgtask.models import Hold, Queue, Task, Worker
from bgtask.models.manager import database_time
from bgtask.status import WorkerState
from bgtask_admin import operations
from bgtask_admin.models import Operation, OperationState
from bgtask_admin.selection import Selection
from bgtask_admin.verbs import Verb


def hold_type(
    task_name: str, *, user: Any, reason: str = "", minutes: int | None = None
) -> Operation:
    """
    Stop tasks of this name, waiting and coming ones; those that run go on.

    The first step moves waiting ones aside; workers put aside what is enqueued later.
    """
    stop = _stop(Hold, user, reason, minutes)
    Hold.objects.update_or_create(task_name=task_name, defaults=stop)
    return operations.do(
        Verb.HOLD_TYPE, Selection.parse({"task": task_name}), user=user, reason=reason
    )


def release_type(task_name: str, *, user: Any) -> Operation:
    """Let tasks of this name be started again."""
    Hold.objects.filter(task_name=task_name).delete()
    return operations.do(Verb.RELEASE_TYPE, Selection.parse({"task": task_name}), user=user)


def pause(queue: str, *, user: Any, reason: str = "", minutes: int | None = None) -> Operation:
    """Nothing more of this queue is started; what waits stays where it is."""
    Queue.objects.update_or_create(name=queue, defaults=_stop(Queue, user, reason, minutes))
    return _note(Verb.PAUSE, {"queue": queue}, user=user, reason=reason)


def resume(queue: str, *, user: Any) -> Operation:
    Queue.objects.filter(name=queue).delete()
    return _note(Verb.RESUME, {"queue": queue}, user=user)


def release_tasks_of(worker: Worker, *, user: Any) -> Operation:
    """
    Take back what a worker holds that is dead, or silent for longer than its lease.

    Raises ValidationError for one that is alive: its tasks are running.
    """
    with transaction.atomic(using=Worker.objects.all().db):
        Worker.objects.silent().filter(pk=worker.pk).declare_dead()
        worker.refresh_from_db()
        if worker.state != WorkerState.DEAD:
            raise ValidationError(_("%s is alive: its tasks are running.") % worker)
        held = Task.objects.filter(locked_by=worker.pk)
        matched = held.count()
        changed = held.rescue(_("released by %s") % user.get_username())
    return _note(Verb.RESCUE, {"worker": worker.label}, user=user, matched=matched, changed=changed)


def _stop(model: Any, user: Any, reason: str, minutes: int | None) -> dict[str, Any]:
    now = database_time(model.objects.all().db)
    until: datetime | None = now + timedelta(minutes=minutes) if minutes else None
    return {"since": now, "until": until, "by": user.get_username(), "reason": reason[:500]}


def _note(
    verb: Verb,
    names: dict[str, str],
    *,
    user: Any,
    reason: str = "",
    matched: int = 0,
    changed: int = 0,
) -> Operation:
    now = timezone.now()
    operation: Operation = Operation.objects.create(
        key=secrets.token_hex(16),
        user=user,
        by=user.get_username(),
        verb=verb,
        filter=json.dumps(names),
        filter_words=", ".join(names.values()),
        reason=reason[:500],
        previewed_at=now,
        finished_at=now,
        matched=matched,
        changed=changed,
        skipped=max(matched - changed, 0),
        state=OperationState.DONE,
    )
    operations.log_one(operation)
    return operation
