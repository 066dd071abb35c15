"""
Run one action over many tasks: preview → confirm → step → log.

A step takes ids in order, up to the high-water mark of the preview, in chunks of a thousand.
Each chunk is one transaction. It advances the operation's row, locks the tasks and checks them
again. One guarded UPDATE then changes the tasks that still allow the action. So a crash loses
nothing and repeats nothing. If two operators act at the same time, only one of them changes
each task. See ``_advance`` for tasks in another database than the log. The module is long because
these steps are one protocol, which is easier to verify in one place.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from django.contrib.admin.models import CHANGE, DELETION
from django.db import connections, transaction
from django.db.models import QuerySet
from django.utils import timezone

from bgtask import clock
from bgtask.db.routing import writing
from bgtask.models import Task, TaskQuerySet
from bgtask.models.deletion import Deletion
from bgtask.models.requeue import Requeued
from bgtask.redaction import MASK
from bgtask.status import Status
from bgtask_admin.actions import sentences
from bgtask_admin.actions.preview import Preview, scope_of, words_for
from bgtask_admin.actions.recording import (
    as_stored,
    entry_of,
    is_log_with_tasks,
    name_of,
    write_history,
)
from bgtask_admin.actions.recording import stop as stop  # Callers use run.stop beside run.step.
from bgtask_admin.actions.registry import ACTIONS, Verb
from bgtask_admin.actions.sentences import GONE, KEY_HELD, REFERRED
from bgtask_admin.models import Operation, OperationState
from bgtask_admin.permissions import NO_DETAILS, Details
from bgtask_admin.tasks.selection import InvalidSelection, Selection

CHUNK_ROWS = 1_000  # Rows that one transaction changes. Workers wait only briefly for its locks.
LOOKAHEAD_ROWS = 10_000  # Ids that one query reads.
STEP_SECONDS = 1.0


def start(
    preview: Preview,
    options: Mapping[str, Any],
    *,
    user: Any = None,
    by: str = "",
    reason: str = "",
) -> Operation:
    """
    Store an operation for the confirmed preview. ``step`` changes the tasks later.

    If the same preview is confirmed twice, return the same operation.
    """
    operation: Operation
    operation, _created = Operation.objects.get_or_create(
        key=preview.key,
        defaults={
            "user_id": user.pk if user else None,
            "by": as_stored(by) if by else name_of(user),
            "verb": preview.action.verb,
            "filter": json.dumps(dict(preview.selection.data)),
            "filter_words": preview.in_words(),
            "options": json.dumps(dict(options)),
            "reason": reason[:500],
            "previewed_at": preview.previewed_at,
            "high_water": preview.high_water,
            "matched": preview.matched,
            "matched_at_least": preview.matched_at_least,
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
    """Preview, confirm and take the first step in one call. Use this for a few tasks."""
    preview = Preview.take(ACTIONS[verb], selection)
    return step(start(preview, options or {}, user=user, by=by, reason=reason))


def step(operation: Operation, seconds: float = STEP_SECONDS) -> Operation:
    """
    Continue the operation for about so many seconds.

    Return early if another process has stepped the same operation in the meantime.
    """
    deadline = clock.monotonic() + seconds
    scope, selection = _scope(operation), _selection(operation)
    has_one_writer = connections[scope.db].vendor == "sqlite"
    while operation.is_running:
        # First repeat a chunk whose mark was not written.
        begun = sorted(operation.begun_data)
        ahead = begun or list(
            scope.filter(pk__gt=operation.last_id, pk__lte=operation.high_water)
            .order_by("pk")
            .values_list("pk", flat=True)[:LOOKAHEAD_ROWS]
        )
        meant = ahead if begun else selection.having(ahead)
        for ids in [begun] if begun else _batches(meant, CHUNK_ROWS):
            began = clock.monotonic()
            if not _advance(operation, ids):
                operation.refresh_from_db()
                return operation
            # SQLite allows one writer. Without this pause, waiting workers would never write.
            if has_one_writer:
                time.sleep(clock.monotonic() - began)
            # After the last chunk, see below whether it was the last of all.
            if clock.monotonic() > deadline and ids[-1] != meant[-1]:
                return operation
        if not begun and _is_last(scope, ahead, operation.high_water):
            _finish(operation)
        elif not begun and not _pass(operation, ahead[-1]):
            operation.refresh_from_db()
            return operation
        if clock.monotonic() > deadline:
            return operation
    return operation


def _is_last(scope: TaskQuerySet, ahead: Sequence[int], high_water: int) -> bool:
    """Return whether no task follows these ids. If so, the operation is done."""
    if len(ahead) < LOOKAHEAD_ROWS:
        return True
    return not scope.filter(pk__gt=ahead[-1], pk__lte=high_water).exists()


def _batches(ids: Sequence[int], size: int) -> Iterator[list[int]]:
    remaining = iter(ids)
    while batch := list(islice(remaining, size)):
        yield batch


def _scope(operation: Operation) -> TaskQuerySet:
    return scope_of(ACTIONS[operation.verb], _selection(operation), operation.previewed_at)


def _selection(operation: Operation) -> Selection:
    return Selection.parse_narrow(operation.filter_data)


def _pass(operation: Operation, last_id: int) -> bool:
    """
    Move the mark past tasks that don't have the argument.

    Return False if another process was faster.
    """
    if operation.last_id >= last_id:
        return True
    ours = Operation.objects.filter(
        pk=operation.pk, state=OperationState.RUNNING, last_id=operation.last_id, begun=""
    )
    is_ours = bool(ours.update(last_id=last_id))
    if is_ours:
        operation.last_id = last_id
    return is_ours


def _advance(operation: Operation, ids: list[int]) -> bool:
    """
    Process one chunk. Return False if another process was faster.

    The mark (``last_id``) is written after the tasks. With one database, one transaction commits
    both. With two databases, the log records the chunk before the tasks' transaction commits,
    and the mark is written afterwards. If a crash comes in between, the process that repeats the
    chunk knows which tasks it meant to change.
    """
    action = ACTIONS[operation.verb]
    tasks = Task.objects.all()
    together = is_log_with_tasks()
    ours = Operation.objects.filter(
        pk=operation.pk,
        state=OperationState.RUNNING,
        last_id=operation.last_id,
        begun=operation.begun,
    )
    with writing(tasks.db):
        # Update the operation's row first. Its lock makes two steps of one operation take turns.
        if together and not ours.update(last_id=ids[-1]):
            return False
        chunk = _judge(operation, ids, tasks)
        begun = "" if together else json.dumps(chunk.begun)
        if begun and not ours.update(begun=begun):
            return False
        try:
            result = action.apply(chunk.tasks, operation.option_data) if chunk.able else 0
        except Exception:
            # The tasks are rolled back, so a repeat of this chunk must not count them.
            if begun:
                Operation.objects.filter(pk=operation.pk, begun=begun).update(begun=operation.begun)
            raise
        mark = partial(_mark, operation, chunk, _Result.of(result), ids[-1])
        if together:
            return mark(Operation.objects.filter(pk=operation.pk))
    return mark(Operation.objects.filter(pk=operation.pk, last_id=operation.last_id, begun=begun))


@dataclass(frozen=True)
class _Result:
    """How many tasks an action changed, and why it kept others."""

    number: int
    kept: Mapping[int, str]  # Primary key → a reason of ``sentences``.

    @classmethod
    def of(cls, result: int | Deletion | Requeued) -> _Result:
        if isinstance(result, Deletion):
            return cls(result.number, {pk: REFERRED + table for pk, table in result.kept.items()})
        if isinstance(result, Requeued):
            kept = {
                pk: GONE if holder is None else f"{KEY_HELD}{holder}"
                for pk, holder in result.kept.items()
            }
            return cls(result.number, kept)
        return cls(result, {})


@dataclass(frozen=True)
class _Chunk:
    """The decision about each id of a chunk. The rows are locked."""

    able: list[int]  # Tasks in a status that allows the action.
    tasks: TaskQuerySet  # The tasks among them that the action changes.
    skipped: Counter[str]
    names: dict[int, str]  # For the history. A deleted task can't be named afterwards.
    done_before: dict[int, str]  # Changed by an earlier run whose mark was not written.
    begun: dict[int, str | None]


def _judge(operation: Operation, ids: list[int], tasks: TaskQuerySet) -> _Chunk:
    action = ACTIONS[operation.verb]
    scope = _scope(operation).filter(pk__in=ids).order_by("pk").select_for_update()
    found = list(scope.values_list("pk", "status"))
    # The rows are locked now, so check them again. Only their ids come from the read ahead.
    having = set(_selection(operation).having([pk for pk, _status in found]))
    found = [(pk, status) for pk, status in found if pk in having]
    able = [pk for pk, status in found if status in action.statuses]
    meant = tasks.filter(action.narrow(operation.previewed_at), pk__in=able)
    before = {pk: name for pk, name in operation.begun_data.items() if name is not None}
    names: dict[int, str] = {}
    if not operation.is_big:
        names = {task.pk: str(task) for task in meant.only("task_name", "verbose_name")}
    elif not is_log_with_tasks():
        names = dict.fromkeys(meant.values_list("pk", flat=True), "")
    done_before = {pk: name for pk, name in before.items() if pk not in names}
    skipped = Counter(
        status for pk, status in found if status not in action.statuses and pk not in done_before
    )
    return _Chunk(
        able=[pk for pk in able if pk not in done_before],
        tasks=meant,
        skipped=skipped,
        names=names,
        done_before=done_before,
        begun={pk: names.get(pk, before.get(pk)) for pk in ids},
    )


def _mark(
    operation: Operation, chunk: _Chunk, result: _Result, last_id: int, ours: QuerySet[Operation]
) -> bool:
    """Write the mark, counts and history. Return False if another process was faster."""
    skipped = Counter(operation.skipped_data)
    skipped.update(chunk.skipped)
    skipped.update(result.kept.values())
    if len(chunk.able) > result.number + len(result.kept):
        skipped[GONE] += len(chunk.able) - result.number - len(result.kept)
    values: dict[str, Any] = {
        "last_id": last_id,
        "begun": "",
        "changed": operation.changed + result.number + len(chunk.done_before),
        "skipped": sum(skipped.values()),
        "skipped_for": json.dumps(skipped),
    }
    flag = DELETION if operation.verb == Verb.DELETE else CHANGE
    with transaction.atomic(using=ours.db):
        if not ours.update(**values):
            return False
        if not operation.is_big:
            named = chunk.names | chunk.done_before
            entries = [
                entry_of(operation, Task, pk, name, flag)
                for pk, name in named.items()
                if pk not in result.kept
            ]
            write_history(operation, entries)
    for name, value in values.items():
        setattr(operation, name, value)
    return True


def _finish(operation: Operation) -> None:
    """Mark the operation as done. Count the matched tasks that no chunk found as skipped."""
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
        # Since the count, more tasks up to the high-water mark may have come to match.
        "matched": max(operation.matched, operation.changed + sum(skipped.values())),
        "matched_at_least": False,
    }
    running_one = Operation.objects.filter(
        pk=operation.pk, state=OperationState.RUNNING, last_id=operation.last_id, begun=""
    )
    with transaction.atomic(using=running_one.db):
        is_ours = bool(running_one.update(**values))
        if is_ours:
            for name, value in values.items():
                setattr(operation, name, value)
            if operation.is_big:
                log_one(operation)
    if not is_ours:
        operation.refresh_from_db()


def _taken_meanwhile(operation: Operation) -> int:
    """Return how many of the same tasks workers have claimed since the preview."""
    # The claimed tasks have another status and other times now. An error text can be searched
    # only together with a status and a period, so drop it as well.
    same = Selection.parse_narrow(operation.filter_data).without(
        "status", "since", "until", "error"
    )
    running = same.without("argument").candidates().running()
    taken = running.filter(pk__lte=operation.high_water, locked_at__gte=operation.previewed_at)
    return same.exactly(taken).count()


def log_one(operation: Operation) -> None:
    """Write one entry for the whole operation into Django's own history."""
    words = filter_in_words(operation, NO_DETAILS)  # More users read it there.
    name = f"{operation.get_verb_display()}: {words}"
    write_history(operation, [entry_of(operation, Operation, operation.pk, name, CHANGE)])


def filter_in_words(operation: Operation, details: Details) -> str:
    """Return the filter as it was confirmed. Mask what is not among ``details``."""
    hidden = {
        "argument": not details.arguments,
        "unique": not details.arguments,
        "error": not details.tracebacks,
    }
    if not any(hidden.get(key) for key in operation.filter_data):
        return operation.filter_words
    if operation.verb not in ACTIONS:
        return MASK
    try:
        selection = Selection.parse_narrow(operation.filter_data)
    except InvalidSelection:
        return MASK
    return words_for(ACTIONS[operation.verb], selection.masked(details))


def result_in_words(operation: Operation, details: Details) -> str:
    """Return the sentences that describe a result.

    An example is “468 tasks requeued. 3 tasks skipped: already running.”
    """
    if operation.verb not in ACTIONS:
        return str(operation.get_verb_display())
    reasons = sentences.skipped(operation.skipped_data, with_messages=details.tracebacks)
    return " ".join([sentences.done(operation), *reasons])
