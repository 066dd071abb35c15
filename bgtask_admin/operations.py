"""
One verb over many tasks: preview → confirm → step → log.

A step takes ids in their order, below the high-water mark of the preview, and does a thousand at
a time: in one transaction the operation's row is advanced, the tasks are locked and judged, and
one guarded UPDATE changes those that still allow it. So a crash loses nothing and repeats
nothing, and of two operators who press at once only one changes each task. See ``_advance`` for
tasks in another database than the log.
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

from bgtask.models import Task, TaskQuerySet
from bgtask.models.deletion import Deletion
from bgtask.models.manager import writing
from bgtask.status import Status
from bgtask_admin import sentences
from bgtask_admin.masking import MASK
from bgtask_admin.models import Operation, OperationState
from bgtask_admin.preview import Preview, scope_of, words_for
from bgtask_admin.recording import entry_of, is_log_with_tasks, write_history
from bgtask_admin.recording import stop as stop  # With the other verbs of an operation.
from bgtask_admin.selection import InvalidSelection, Selection
from bgtask_admin.sentences import GONE, REFERRED
from bgtask_admin.verbs import ACTIONS, Verb

CHUNK = 1_000  # Rows that one transaction changes: workers wait for it no longer than a moment.
LOOK_AHEAD = 10_000  # Ids that are read at once.
STEP = 1.0  # Seconds.


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
            "user_id": user.pk if user else None,
            "by": (by or user.get_username())[:255],
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
    """Preview, confirm and take the first step in one: for a few tasks."""
    preview = Preview.take(ACTIONS[verb], selection)
    return step(start(preview, options or {}, user=user, by=by, reason=reason))


def step(operation: Operation, seconds: float = STEP) -> Operation:
    """Go on for about so long. Whoever else steps the same operation meanwhile is given way to."""
    deadline = time.monotonic() + seconds
    scope, selection = _scope(operation), _selection(operation)
    has_one_writer = connections[scope.db].vendor == "sqlite"
    while operation.is_running:
        begun = sorted(operation.begun_data)  # A chunk whose mark was not written comes first.
        ahead = begun or list(
            scope.filter(pk__gt=operation.last_id, pk__lte=operation.high_water)
            .order_by("pk")
            .values_list("pk", flat=True)[:LOOK_AHEAD]
        )
        meant = ahead if begun else selection.having(ahead)
        for ids in [begun] if begun else _batches(meant, CHUNK):
            began = time.monotonic()
            if not _advance(operation, ids):
                operation.refresh_from_db()
                return operation
            if has_one_writer:  # Workers that wait for their turn would otherwise never get it.
                time.sleep(time.monotonic() - began)
            if time.monotonic() > deadline:
                return operation
        if not begun and len(ahead) < LOOK_AHEAD:
            _finish(operation)
        elif not begun and not _pass(operation, ahead[-1]):
            operation.refresh_from_db()
            return operation
        if time.monotonic() > deadline:
            return operation
    return operation


def _batches(ids: Sequence[int], size: int) -> Iterator[list[int]]:
    remaining = iter(ids)
    while batch := list(islice(remaining, size)):
        yield batch


def _scope(operation: Operation) -> TaskQuerySet:
    return scope_of(ACTIONS[operation.verb], _selection(operation), operation.previewed_at)


def _selection(operation: Operation) -> Selection:
    return Selection.parse_narrow(operation.filter_data)


def _pass(operation: Operation, last_id: int) -> bool:
    """Go on behind tasks that do not have the argument; False if somebody else was faster."""
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
    Do one chunk; return False if somebody else was faster.

    The mark follows the tasks. With one database both are committed together. With two, the
    chunk is noted in the log before the tasks' transaction commits, and its mark is written
    afterwards: whoever repeats the chunk after a crash in between knows what it meant to change.
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
        # First of all, for this is the lock that makes two steps of one operation take turns.
        if together and not ours.update(last_id=ids[-1]):
            return False
        chunk = _judge(operation, ids, tasks)
        begun = "" if together else json.dumps(chunk.begun)
        if begun and not ours.update(begun=begun):
            return False
        try:
            result = action.apply(chunk.tasks, operation.option_data) if chunk.able else 0
        except Exception:
            if begun:  # The tasks are rolled back, so a repeat has nothing to account for.
                Operation.objects.filter(pk=operation.pk, begun=begun).update(begun=operation.begun)
            raise
        deletion = result if isinstance(result, Deletion) else Deletion(result)
        mark = partial(_mark, operation, chunk, deletion, ids[-1])
        if together:
            return mark(Operation.objects.filter(pk=operation.pk))
    return mark(Operation.objects.filter(pk=operation.pk, last_id=operation.last_id, begun=begun))


@dataclass(frozen=True)
class _Chunk:
    """What becomes of these ids; the rows are locked."""

    able: list[int]  # In a status that allows it.
    tasks: TaskQuerySet  # Those among them that are changed.
    skipped: Counter[str]
    names: dict[int, str]  # For the history. A deleted task cannot be named afterwards.
    done_before: dict[int, str]  # Changed by a chunk whose mark was not written.
    begun: dict[int, str | None]


def _judge(operation: Operation, ids: list[int], tasks: TaskQuerySet) -> _Chunk:
    action = ACTIONS[operation.verb]
    scope = _scope(operation).filter(pk__in=ids).order_by("pk").select_for_update()
    found = list(scope.values_list("pk", "status"))
    # They are locked, and decided about once more: nothing but the ids came from the look ahead.
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
    operation: Operation, chunk: _Chunk, result: Deletion, last_id: int, ours: QuerySet[Operation]
) -> bool:
    """Write how far it is, and the entries of the history."""
    skipped = Counter(operation.skipped_data)
    skipped.update(chunk.skipped)
    skipped.update(f"{REFERRED}{table}" for table in result.kept.values())
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
    """How many of the same tasks a worker has in hand that took them since the preview."""
    # Their status and their times are others now, and the text of an error is not searched for
    # without these.
    same = Selection.parse_narrow(operation.filter_data).without(
        "status", "since", "until", "error"
    )
    running = same.without("argument").candidates().running()
    taken = running.filter(pk__lte=operation.high_water, locked_at__gte=operation.previewed_at)
    return same.exactly(taken).count()


def log_one(operation: Operation) -> None:
    """Write one entry for the whole operation into Django's own history."""
    words = filter_in_words(operation, with_arguments=False)  # Others read it elsewhere.
    name = f"{operation.get_verb_display()}: {words}"
    write_history(operation, [entry_of(operation, Operation, operation.pk, name, CHANGE)])


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
    """Return sentences: “468 tasks requeued. 3 tasks skipped: already running.”"""
    if operation.verb not in ACTIONS:
        return str(operation.get_verb_display())
    return " ".join([sentences.done(operation), *sentences.skipped(operation.skipped_data)])
