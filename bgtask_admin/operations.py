"""
One verb over many tasks: preview → confirm → step → log.

A step takes ids in their order, below the high-water mark of the preview, and does a thousand at
a time: in one transaction the operation's row is advanced, the tasks are locked and judged, and
one guarded UPDATE changes those that still allow it. So a crash loses nothing and repeats
nothing, and of two operators who press at once only one changes each task.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import DatabaseError, connections, router, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from bgtask.models import Deletion, Task, TaskQuerySet
from bgtask.status import Status
from bgtask_admin.masking import MASK
from bgtask_admin.models import Operation, OperationState
from bgtask_admin.preview import Preview, scope_of, words_for
from bgtask_admin.selection import InvalidSelection, Selection
from bgtask_admin.verbs import ACTIONS, Verb

CHUNK = 1_000  # Rows that one transaction changes: workers wait for it no longer than a moment.
LOOK_AHEAD = 10_000  # Ids that are read at once.
STEP = 1.0  # Seconds.
LOG_BATCH_ROWS = 20  # One statement's entries: with long reasons they stay below 64 KiB.
GONE = "gone"  # Skipped, for it no longer matches.
REFERRED = "referred:"  # Skipped, since rows of the table named behind it refer to the task.


def start(
    preview: Preview,
    options: Mapping[str, Any],
    *,
    user: Any = None,
    by: str = "",
    reason: str = "",
) -> Operation:
    """
    Note down that it is to be done. Nothing has been changed yet: ``step`` does.

    The same preview confirmed twice is one operation.
    """
    operation: Operation
    operation, _created = Operation.objects.get_or_create(
        key=preview.key,
        defaults={
            "user": user,
            "by": by or user.get_username(),
            "verb": preview.action.verb,
            "filter": json.dumps(dict(preview.selection.data)),
            "filter_words": preview.in_words(),
            "options": json.dumps(dict(options)),
            "reason": reason[:500],
            "previewed_at": preview.previewed_at,
            "high_water": preview.high_water,
            "matched": preview.matched,
        },
    )
    return operation


def do(
    verb: str,
    selection: Selection,
    options: Mapping[str, Any] | None = None,
    *,
    user: Any = None,
    by: str = "",
    reason: str = "",
) -> Operation:
    """Preview, confirm and take the first step in one: for a few tasks."""
    preview = Preview.take(ACTIONS[verb], selection)
    return step(start(preview, options or {}, user=user, by=by, reason=reason))


def step(operation: Operation, seconds: float = STEP) -> Operation:
    """Go on for about so long. Whoever else steps the same operation meanwhile is given way to."""
    deadline = time.monotonic() + seconds
    scope = _scope(operation)
    has_one_writer = connections[scope.db].vendor == "sqlite"
    while operation.is_running:
        ahead = list(
            scope.filter(pk__gt=operation.last_id, pk__lte=operation.high_water)
            .order_by("pk")
            .values_list("pk", flat=True)[:LOOK_AHEAD]
        )
        for ids in _batches(ahead, CHUNK):
            began = time.monotonic()
            if not _advance(operation, ids):
                operation.refresh_from_db()
                return operation
            if has_one_writer:  # Workers that wait for their turn would otherwise never get it.
                time.sleep(time.monotonic() - began)
            if time.monotonic() > deadline:
                return operation
        if len(ahead) < LOOK_AHEAD:
            _finish(operation)
    return operation


def stop(operation: Operation) -> bool:
    """Leave the rest as it is."""
    return bool(
        Operation.objects.filter(pk=operation.pk, state=OperationState.RUNNING).update(
            state=OperationState.STOPPED, finished_at=timezone.now()
        )
    )


def _batches(ids: Sequence[int], size: int) -> Iterator[list[int]]:
    remaining = iter(ids)
    while batch := list(islice(remaining, size)):
        yield batch


def _scope(operation: Operation) -> TaskQuerySet:
    selection = Selection.parse_narrow(operation.filter_data)
    return scope_of(ACTIONS[operation.verb], selection, operation.previewed_at)


def _advance(operation: Operation, ids: list[int]) -> bool:
    """One chunk; False if somebody else was faster."""
    action = ACTIONS[operation.verb]
    tasks = Task.objects.all()
    with transaction.atomic(using=tasks.db):
        # First of all, for this is the lock that makes two steps of one operation take turns.
        ours = Operation.objects.filter(
            pk=operation.pk, state=OperationState.RUNNING, last_id=operation.last_id
        )
        if not ours.update(last_id=ids[-1]):
            return False
        found = list(
            _scope(operation)
            .filter(pk__in=ids)
            .order_by("pk")
            .select_for_update()
            .values_list("pk", "status")
        )
        able = [pk for pk, status in found if status in action.statuses]
        meant = tasks.filter(action.narrow(operation.previewed_at), pk__in=able)
        # Before they change, for of what is deleted nothing could be said; they are locked.
        entries = [] if operation.is_big else _entries(operation, meant)
        result = action.apply(meant, operation.option_data) if able else 0
        deletion = result if isinstance(result, Deletion) else Deletion(result)
        changed, kept = deletion.number, deletion.kept
        skipped = Counter(operation.skipped_data)
        skipped.update(status for pk, status in found if status not in action.statuses)
        skipped.update(f"{REFERRED}{table}" for table in kept.values())
        if len(able) > changed + len(kept):
            skipped[GONE] += len(able) - changed - len(kept)
        unchanged = set(map(str, kept))
        _log([entry for entry in entries if entry.object_id not in unchanged])
        now = {
            "changed": operation.changed + changed,
            "skipped": sum(skipped.values()),
            "skipped_for": json.dumps(skipped),
        }
        Operation.objects.filter(pk=operation.pk).update(**now)
    operation.last_id = ids[-1]
    for name, value in now.items():
        setattr(operation, name, value)
    return True


def _finish(operation: Operation) -> None:
    """All that is left of the ids has been done; account for those that were never met."""
    skipped = Counter(operation.skipped_data)
    missing = operation.matched - operation.changed - sum(skipped.values())
    if missing > 0:
        running = min(missing, _taken_meanwhile(operation))
        skipped[Status.RUNNING.value] += running
        skipped[GONE] += missing - running
    skipped = +skipped
    values: dict[str, Any] = {
        "state": OperationState.DONE,
        "finished_at": timezone.now(),
        "skipped": sum(skipped.values()),
        "skipped_for": json.dumps(skipped),
        # More may have come to match below the mark since it was counted.
        "matched": max(operation.matched, operation.changed + sum(skipped.values())),
    }
    running_one = Operation.objects.filter(
        pk=operation.pk, state=OperationState.RUNNING, last_id=operation.last_id
    )
    if running_one.update(**values):
        for name, value in values.items():
            setattr(operation, name, value)
        if operation.is_big:
            log_one(operation)
    else:
        operation.refresh_from_db()


def _taken_meanwhile(operation: Operation) -> int:
    """How many of the same tasks a worker has in hand that took them since the preview."""
    # Their status and their times are others now, and the text of an error is not searched for
    # without these.
    same = Selection.parse_narrow(operation.filter_data).without(
        "status", "since", "until", "error"
    )
    return (
        same.tasks()
        .running()
        .filter(pk__lte=operation.high_water, locked_at__gte=operation.previewed_at)
        .count()
    )


# In Django's own history


def _entries(operation: Operation, tasks: TaskQuerySet) -> list[LogEntry]:
    """An entry for each task."""
    if operation.user_id is None:
        return []
    flag = DELETION if operation.verb == Verb.DELETE else CHANGE
    return [_entry(operation, task, flag) for task in tasks.only("task_name", "verbose_name")]


def _entry(operation: Operation, thing: Any, flag: int) -> LogEntry:
    return LogEntry(
        user=operation.user,
        content_type=ContentType.objects.get_for_model(thing),
        object_id=str(thing.pk),
        object_repr=str(thing)[:200],
        action_flag=flag,
        change_message=f"{operation.get_verb_display()}. {operation.reason}".strip(),
    )


def log_one(operation: Operation) -> None:
    """One entry for the whole operation."""
    if operation.user_id is not None:
        entry = _entry(operation, operation, CHANGE)
        words = filter_in_words(operation, with_arguments=False)  # Others read it elsewhere.
        entry.object_repr = f"{operation.get_verb_display()}: {words}"[:200]
        _log([entry])


def _log(entries: Sequence[LogEntry]) -> None:
    """Store them; the table is Django's, and on MariaDB it may hold fewer characters than ours."""
    if not entries:
        return
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


def filter_in_words(operation: Operation, *, with_arguments: bool) -> str:
    """As it was confirmed; the value of an argument is only for who may see arguments."""
    if with_arguments or "argument" not in operation.filter_data:
        return operation.filter_words
    try:
        selection = Selection.parse_narrow(operation.filter_data)
    except InvalidSelection:
        return MASK
    return words_for(ACTIONS[operation.verb], selection.masked())


def result_in_words(operation: Operation) -> str:
    """“468 requeued, 3 skipped: already running”."""
    action = ACTIONS.get(operation.verb)
    if action is None:
        return str(operation.get_verb_display())
    words = action.done(operation.changed)
    if not operation.skipped:
        return words
    reasons = operation.skipped_data
    said = [
        reason if len(reasons) == 1 else f"{count:,} {reason}"
        for count, reason in (
            (count, _skipped_for(key)) for key, count in Counter(reasons).most_common()
        )
    ]
    return _("%(done)s, %(count)s skipped: %(reasons)s") % {
        "done": words,
        "count": f"{operation.skipped:,}",
        "reasons": ", ".join(said),
    }


def _skipped_for(key: str) -> str:
    if key.startswith(REFERRED):
        return _("rows of %s refer to it") % key.removeprefix(REFERRED)
    return {
        Status.RUNNING.value: _("already running"),
        Status.READY.value: _("already ready"),
        Status.SCHEDULED.value: _("already scheduled"),
        Status.HELD.value: _("held"),
        Status.SUCCESSFUL.value: _("already successful"),
        Status.FAILED.value: _("already failed"),
        Status.CANCELLED.value: _("already cancelled"),
        GONE: _("changed meanwhile"),
    }[key]
