"""
Keep a change and its entry in the operations log together.

Where one database holds both, one transaction does. Across two databases the entry is committed
first, as running, so that no change is without an entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.db import DatabaseError, router, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from bgtask.models import Task
from bgtask.models.manager import writing
from bgtask_admin.models import Operation, OperationState

LOG_BATCH_ROWS = 20  # One statement's entries: with long reasons they stay below 64 KiB.


def is_log_with_tasks() -> bool:
    """Return whether one transaction can hold a change and its entry in the log."""
    return bool(Operation.objects.all().db == Task.objects.all().db)


@contextmanager
def recorded(
    begin: Callable[[], Operation], finish: Callable[[Operation], None] | None = None
) -> Iterator[Operation]:
    """
    Log what the block does: ``begin`` stores the entry, ``finish`` completes it.

    Across two databases an error in the block leaves the entry there, as stopped.
    """
    finish = finish or (lambda operation: None)
    tasks_db = Task.objects.all().db
    if is_log_with_tasks():
        with writing(tasks_db):
            operation = begin()
            yield operation
            finish(operation)
        return
    operation = begin()
    try:
        with writing(tasks_db):
            yield operation
    except BaseException:
        stop(operation)
        raise
    with transaction.atomic(using=operation._state.db):
        finish(operation)


def stop(operation: Operation) -> bool:
    """Leave the rest as it is."""
    return bool(
        Operation.objects.filter(pk=operation.pk, state=OperationState.RUNNING).update(
            state=OperationState.STOPPED, finished_at=timezone.now()
        )
    )


# In Django's own history


def entry_of(operation: Operation, model: Any, pk: Any, name: str, flag: int) -> LogEntry:
    """
    Return an unsaved entry. It holds keys, not objects, as these may be of two databases.

    Without a user it cannot be saved: ``write_history`` leaves it out.
    """
    return LogEntry(
        user_id=operation.user_id,  # type: ignore[misc]
        content_type_id=ContentType.objects.get_for_model(model).pk,
        object_id=str(pk),
        object_repr=name[:200],
        action_flag=flag,
        change_message=_change_message(operation),
    )


def _change_message(operation: Operation) -> str:
    verb = operation.get_verb_display()
    if not operation.reason:
        return _("%(action)s.") % {"action": verb}
    return _("%(action)s. Reason: %(reason)s") % {"action": verb, "reason": operation.reason}


def write_history(operation: Operation, entries: Sequence[LogEntry]) -> None:
    """
    Store these entries with the operation, or after its commit if they have another database.

    An entry needs its user: store none for a user who has been deleted, or for the shell.
    """
    if not (entries and operation.user_id and _is_known(operation.user_id)):
        return
    write = partial(_write, entries)
    log_db = Operation.objects.all().db
    if router.db_for_write(LogEntry) == log_db:
        write()
    else:
        transaction.on_commit(write, using=log_db, robust=True)


def _write(entries: Sequence[LogEntry]) -> None:
    """Store entries in Django's table, which may hold fewer characters than ours on MariaDB."""
    try:
        with transaction.atomic(using=router.db_for_write(LogEntry)):
            LogEntry.objects.bulk_create(entries, batch_size=LOG_BATCH_ROWS)
    except DatabaseError:
        for entry in entries:
            entry.object_repr = _in_ascii(entry.object_repr)[:200]
            entry.change_message = _in_ascii(entry.change_message)
        LogEntry.objects.bulk_create(entries, batch_size=LOG_BATCH_ROWS)


def _in_ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii")


def _is_known(user_id: Any) -> bool:
    users = get_user_model()._base_manager.using(router.db_for_write(get_user_model()))
    return users.filter(pk=user_id).exists()
