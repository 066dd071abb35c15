"""
Keep a change and its entry in the operations log together.

If one database holds both, one transaction is enough. With two databases, the entry is
committed first, with the state "running", so that every change has an entry.
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

from bgtask.db.routing import queue_alias, writing
from bgtask_admin.models import Operation, OperationState

MAX_NAME_LENGTH = 255  # Of the columns by, held_by and paused_by.
LOG_BATCH_ROWS = 20  # Even with long reasons, one INSERT statement stays below 64 KiB.


def is_log_with_tasks() -> bool:
    """Return whether one transaction can contain a change and its entry in the log."""
    return bool(Operation.objects.all().db == queue_alias())


@contextmanager
def recorded(
    begin: Callable[[], Operation], finish: Callable[[Operation], None] | None = None
) -> Iterator[Operation]:
    """
    Log the work of the block. ``begin`` stores the entry, and ``finish`` completes it.

    With two databases, an error in the block leaves the entry in the log, marked as stopped.
    """
    finish = finish or (lambda operation: None)
    tasks_db = queue_alias()
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
    """Stop a running operation and leave its remaining tasks unchanged. Return whether it ran."""
    return bool(
        Operation.objects.filter(pk=operation.pk, state=OperationState.RUNNING).update(
            state=OperationState.STOPPED, finished_at=timezone.now()
        )
    )


def name_of(user: Any) -> str:
    """Return the user's name as the columns for it can store it, whatever the user model allows."""
    return as_stored(user.get_username())


def as_stored(name: Any) -> str:
    """Return the name as text without characters that databases refuse, cut to its column."""
    text = "" if name is None else str(name)
    text = text.replace("\x00", "\ufffd").encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_NAME_LENGTH else f"{text[: MAX_NAME_LENGTH - 1]}…"


# Django's own history (LogEntry)


def entry_of(operation: Operation, model: Any, pk: Any, name: str, flag: int) -> LogEntry:
    """
    Return an unsaved entry. It holds keys, not objects, which may be in different databases.

    An entry without a user can't be saved, so ``write_history`` leaves it out.
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
    Store the entries with the operation, or after its commit if they are in another database.

    An entry needs a user. Store none if the user has been deleted, or for the command line.
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
    """
    Store entries in Django's table.

    On MariaDB that table may accept fewer characters than ours. If so, escape them in ASCII.
    """
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
