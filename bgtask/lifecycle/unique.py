"""Store tasks that have a unique key, or find the tasks that hold their keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from django.db import connections
from django.db.models import QuerySet

from bgtask.db import DatabaseNow, Replacement, operations_for
from bgtask.db.internals import new_instance
from bgtask.db.operations import REPLACED_COLUMNS, STORED
from bgtask.db.routing import as_read
from bgtask.exceptions import AlreadyThere
from bgtask.models import Task
from bgtask.status import FINISHED, WAITING
from bgtask.unique import UniqueKey

# How often an enqueue looks for the task that holds the key, if that task ends each time.
TRIES = 10

Schedule = float | datetime | None
# Returns the STORED columns of a new row, or None if the key is not free.
Insert = Callable[[], Sequence[Any] | None]


def store_unique(
    alias: str, columns: Mapping[str, Any], schedule: Schedule, key: UniqueKey, insert: Insert
) -> Sequence[Any] | Task:
    """
    Insert a task and return the STORED columns of its row, or return the task that holds its key.

    Raise AlreadyThere if the key is held and its ``on_conflict`` is "raise".

    Each step is one statement that checks again what the step before has seen. So another process
    may enqueue, run or finish a task with this key at any moment between them.
    """
    replaces = key.on_conflict == "replace"
    for _ in range(TRIES):
        # Most calls of a debounced task replace one that waits, so try this first.
        if replaces and (task := _replace(alias, columns, schedule, key)) is not None:
            return task
        if (row := insert()) is not None:
            return row
        holder: Task | None = _holders(alias, [key.name]).first()
        if holder is None or let_lapse(alias, [key.name]):
            continue
        if replaces and holder.status in WAITING:
            if holder.task_name != columns["task_name"]:
                raise _of_another_function(holder, columns["task_name"])
            continue  # It waits again, since a worker has released or retried it.
        if key.on_conflict == "raise":
            raise already_there(holder)
        holder.was_there = True
        return holder
    raise AlreadyThere(
        f"The unique key {key.name!r} was taken by tasks that this transaction can't see, "
        f"{TRIES} times. Enqueue the task in a transaction of its own.",
        key=key.name,
        task_id=None,
    )


def store_many_unique(
    alias: str,
    columns: Mapping[str, Any],
    row: tuple[list[str], list[str], list[Any]],
    schedule: Schedule,
    keyed: Mapping[str, tuple[UniqueKey, str]],
) -> int:
    """
    Insert a task for each unique key and its task_params; return how many were inserted.

    Where a key is not free, replace the waiting task or raise AlreadyThere, as the key says.
    """
    connection = connections[alias]
    operations = operations_for(connection)
    # Sort by key, so that two of these statements can't deadlock.
    pairs = [(keyed[name][1], name) for name in sorted(keyed)]
    stored = operations.insert_many_if_free(connection, *row, pairs)
    if len(stored) < len(keyed) and let_lapse(alias, keyed.keys() - stored):
        free = [pair for pair in pairs if pair[1] not in stored]
        stored |= operations.insert_many_if_free(connection, *row, free)
    total = len(stored)
    for name in sorted(keyed.keys() - stored):
        key, text = keyed[name]
        if key.on_conflict != "skip":
            insert = partial(operations.insert_with_key, connection, *row, text, name)
            one = store_unique(alias, {**columns, "task_params": text}, schedule, key, insert)
            total += not isinstance(one, Task)
    return total


def let_lapse(alias: str, names: Iterable[str]) -> int:
    """Give up those of these keys that finished tasks hold for longer than unique_for."""
    lapsed = _holders(alias, names).filter(
        status__in=sorted(FINISHED), unique_until__lte=DatabaseNow()
    )
    # Find the rows without a lock first, since a lock by the unique key could deadlock on MariaDB.
    ids = list(lapsed.values_list("pk", flat=True))
    return lapsed.filter(pk__in=ids).update(unique_key=None) if ids else 0


def already_there(holder: Task) -> AlreadyThere:
    return AlreadyThere(
        f"Task {holder.pk} ({holder.task_name}, {holder.status}) holds the unique key "
        f"{holder.unique_key!r}, so no other was stored. Use on_conflict='skip' to get that task "
        "instead.",
        key=str(holder.unique_key),
        task_id=holder.pk,
    )


def _of_another_function(holder: Task, name: str) -> AlreadyThere:
    return AlreadyThere(
        f"Task {holder.pk} holds the unique key {holder.unique_key!r}, and can't be replaced by a "
        f"call of {name}, because it is a call of {holder.task_name}. Give the two functions "
        "different keys.",
        key=str(holder.unique_key),
        task_id=holder.pk,
    )


def _holders(alias: str, names: Iterable[str]) -> QuerySet[Task]:
    holders: QuerySet[Task] = Task.objects.using(alias).filter(unique_key__in=sorted(names))
    return holders


def _replace(
    alias: str, columns: Mapping[str, Any], schedule: Schedule, key: UniqueKey
) -> Task | None:
    """Replace the waiting task that holds the key. Return the task, or None."""
    connection = connections[alias]
    replacement = Replacement(key.name, columns, schedule, key.latest)
    row = operations_for(connection).replace_waiting(connection, replacement)
    if row is None:
        return None
    task: Task = new_instance(Task, alias)  # The other fields are read if they are accessed.
    task.__dict__.update(
        {name: columns[name] for name in ("task_name", *REPLACED_COLUMNS)},
        unique_key=key.name,
        unique_name=key.name,
        was_there=True,
        **dict(zip(STORED, row, strict=True)),
    )
    task.run_at, task.enqueued_at = (as_read(connection, value) for value in row[2:])
    return task
