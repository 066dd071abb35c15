"""
Store one task by one statement, or many tasks by one statement per thousand.

The module is long because one task and many share its checks, columns and SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from itertools import chain, islice
from types import MappingProxyType
from typing import Any, NoReturn

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model
from django.db.models.signals import post_init, pre_init

from bgtask import signals
from bgtask.conf import DEFAULT_QUEUE
from bgtask.db import again_after_deadlock, operations_for
from bgtask.db.internals import new_instance
from bgtask.db.routing import as_read
from bgtask.exceptions import AlreadyThere, InvalidOption, InvalidParameters
from bgtask.lifecycle.unique import store_many_unique, store_unique
from bgtask.models import Task, hooks
from bgtask.options import SECOND_NAMES, TaskOptions, check_names
from bgtask.serialization import dump_params
from bgtask.unique import FURTHER_OPTIONS, UniqueKey, UniqueRule
from bgtask.values import as_text, brief

BATCH_ROWS = 1_000
MAX_REPEATED_ITEMS = 10_000  # Unique items that are kept in memory, to store them again.
SMALL_BYTES = 16 * 2**10  # A text up to this size is sent without asking for the database's limit.
# The back-off is not stored with a task. The caller translates second names, and makes a rule of
# the options of unique tasks.
_OPTIONS = TaskOptions.__annotations__.keys() - {"backoff", *FURTHER_OPTIONS} - SECOND_NAMES.keys()

Row = tuple[list[str], list[str], list[Any]]
Params = tuple[Sequence[Any], dict[str, Any]]
# The parameters of a task as JSON, and its unique key.
Text = tuple[str, UniqueKey | None]


def store_task(
    model: type[Task],
    alias: str,
    name: str,
    params: Params,
    options: Any,
    *,
    columns: Mapping[str, Any] = MappingProxyType({}),
    on_stored: Callable[[Task], None] | None = None,
) -> Task:
    """
    Store a task. See ``TaskManager.enqueue``.

    ``columns`` has values of further columns. ``on_stored`` is called with the stored task, before
    ``bgtask.testing`` may run it. If the task is stored after a commit, it is called then.
    """
    check_names(options, _OPTIONS)
    text = dump_params(*params)
    key = None if "unique" not in options else _rule(options).key_of(*params)
    return _enqueue(model, alias, name, (text, key), options, columns, on_stored)


def _rule(options: Any) -> UniqueRule:
    rule = options["unique"]
    if not isinstance(rule, UniqueRule):
        raise InvalidOption(
            f"unique={brief(rule)} can't be given here. Give it to @background, or to using()."
        )
    return rule


def _enqueue(
    model: type[Task],
    alias: str,
    name: str,
    text_and_key: Text,
    options: Any,
    further: Mapping[str, Any] = MappingProxyType({}),
    on_stored: Callable[[Task], None] | None = None,
) -> Task:
    connection = connections[alias]
    text, key = text_and_key
    _check_size(connection, text)
    columns = _columns(name, options, key)
    columns["task_params"] = text
    schedule = options.get("schedule")
    # The database sets these values.
    unknown = {"run_at": schedule if isinstance(schedule, datetime) else None, "enqueued_at": None}
    task = _instance(model, alias, {**columns, **further, **unknown})
    for column, value in further.items():
        field: Any = model._meta.get_field(column)
        columns[column] = field.get_db_prep_value(value, connection)
    store = partial(_store, alias, task, columns, schedule, key, on_stored)
    if (other := _other_transaction(connection)) is None:
        store()
    else:
        transaction.on_commit(store, using=other)
    return task


def _instance(model: type[Task], alias: str, values: Mapping[str, Any]) -> Task:
    """
    Return an unsaved task with these values, and defaults for the others.

    ``Model.__init__`` takes a third of the time of an enqueue. It is called only if something
    depends on it.
    """
    if _has_own_init(model) or pre_init.has_listeners(model) or post_init.has_listeners(model):
        return model(**values)
    task: Task = new_instance(model, alias)
    task._state.adding = True
    task.__dict__.update(_defaults(model), **values)
    return task


@cache
def _has_own_init(model: Any) -> bool:
    return model.__init__ is not Model.__init__


@cache
def _defaults(model: type[Task]) -> dict[str, Any]:
    return {
        field.attname: None if callable(field.default) else field.get_default()
        for field in model._meta.concrete_fields
    }


def store_tasks(
    model: type[Task], alias: str, name: str, params: Iterable[Params], options: Any
) -> int:
    """Store many tasks. See ``TaskManager.enqueue_many``."""
    check_names(options, _OPTIONS)
    # If there are receivers, each must get every task, so the tasks are stored one by one.
    each = signals.task_enqueued.receivers or after_storing is not _send_enqueued
    store = _store_each if each else _store_all if "unique" not in options else _store_all_unique
    other = _other_transaction(connections[alias])
    texts = _texts(params, _rule(options) if "unique" in options else None)
    if other is None:
        return store(model, alias, name, texts, options)
    known = list(texts)  # Validate every item now, so that the caller gets the error.
    for text, _key in known:
        _check_size(connections[alias], text)
    transaction.on_commit(partial(store, model, alias, name, known, options), using=other)
    return len(known)


def _texts(params: Iterable[Params], rule: UniqueRule | None) -> Iterator[Text]:
    """
    Yield each item as JSON, with its key.

    Raise InvalidParameters or InvalidOption, with the number of the item, for an invalid item.
    """
    for number, (args, kwargs) in enumerate(params):
        try:
            text = dump_params(args, kwargs)
            key = None if rule is None else rule.key_of(args, kwargs)
        except (InvalidParameters, InvalidOption) as error:
            raise type(error)(f"Item {number}: {error}") from error
        yield text, key


def _store_all(
    model: type[Task], alias: str, name: str, texts: Iterable[Text], options: Any
) -> int:
    connection = connections[alias]
    operations = operations_for(connection)
    columns = _columns(name, options)
    row = _row(connection, columns, options.get("schedule"))
    total = 0
    with operations.transaction(connection):
        for batch in _batches(connection, row, texts):
            operations.insert_many(connection, *row, [text for text, _key in batch])
            total += len(batch)
        if total:
            operations.wake(connection, columns["queue"])
    return total


def _store_all_unique(
    model: type[Task], alias: str, name: str, texts: Iterable[Text], options: Any
) -> int:
    """
    Store the items whose keys are free; return how many. Items may have the same key.

    Unless there are very many, all are stored again after a deadlock, which unique keys can cause.
    """
    connection = connections[alias]
    items = iter(texts)
    known = list(islice(items, MAX_REPEATED_ITEMS + 1))
    if len(known) > MAX_REPEATED_ITEMS:
        return _store_unique(alias, name, chain(known, items), options)
    return again_after_deadlock(connection, partial(_store_unique, alias, name, known, options))


def _store_unique(alias: str, name: str, texts: Iterable[Text], options: Any) -> int:
    connection = connections[alias]
    operations = operations_for(connection)
    columns = _columns(name, options) | {"unique_while": _rule(options).held_while}
    schedule = options.get("schedule")
    total = 0
    with operations.transaction(connection):
        for batch in _batches(connection, _row(connection, columns, schedule), texts):
            keyed = _by_key(batch)
            row = _row(connection, columns, schedule, next(iter(keyed.values()))[0])
            total += store_many_unique(alias, columns, row, schedule, keyed)
        operations.wake(connection, columns["queue"])
    return total


def _by_key(batch: Iterable[Text]) -> dict[str, tuple[UniqueKey, str]]:
    """
    Return the items by the names of their keys, since one statement must not store a key twice.

    The first item of each key stays, or the last if it would replace the others.
    """
    keyed: dict[str, tuple[UniqueKey, str]] = {}
    for text, key in batch:
        if key is None:
            continue
        if key.name in keyed and key.on_conflict == "raise":
            raise AlreadyThere(
                f"Two of these items have the unique key {key.name!r}.", key=key.name, task_id=None
            )
        if key.name not in keyed or key.on_conflict == "replace":
            keyed[key.name] = key, text
    return keyed


def _batches(
    connection: BaseDatabaseWrapper, row: Row, texts: Iterable[Text]
) -> Iterator[list[Text]]:
    """Yield the items for one statement at a time, limited in rows and in bytes."""
    operations = operations_for(connection)
    _names, values, params = row
    # Each row repeats the SQL and the values that all rows share.
    shared = sum(map(len, values)) + sum(operations.sent_bytes(str(one)) + 4 for one in params) + 16
    room = operations.statement_bytes(connection)
    batch: list[Text] = []
    used = 0
    for text, key in texts:
        size = operations.sent_bytes(text) + shared
        if key is not None:
            size += 2 * operations.sent_bytes(key.name) + 64
        if size > room:
            _refuse_size(connection, text)
        if batch and (used + size > room or len(batch) == BATCH_ROWS):
            yield batch
            batch, used = [], 0
        batch.append((text, key))
        used += size
    if batch:
        yield batch


def _check_size(connection: BaseDatabaseWrapper, text: str) -> None:
    """Raise InvalidParameters if the database does not accept a statement of this size."""
    if len(text) <= SMALL_BYTES:
        return
    operations = operations_for(connection)
    if operations.sent_bytes(text) > operations.statement_bytes(connection):
        _refuse_size(connection, text)


def _refuse_size(connection: BaseDatabaseWrapper, text: str) -> NoReturn:
    operations = operations_for(connection)
    raise InvalidParameters(
        f"The parameters take {operations.sent_bytes(text):,} bytes in a statement, which is too "
        f"many for the database's limit ({operations.limit_in_words(connection)}). Keep large data "
        "in a model or a file and pass its key, or raise that limit."
    )


def _store_each(
    model: type[Task], alias: str, name: str, texts: Iterable[Text], options: Any
) -> int:
    total = 0
    connection = connections[alias]
    with operations_for(connection).transaction(connection):
        for text in texts:
            total += not _enqueue(model, alias, name, text, options).was_there
    return total


def _columns(
    task_name: str, options: dict[str, Any], key: UniqueKey | None = None
) -> dict[str, Any]:
    columns = {
        "task_name": _plain(task_name),
        "queue": _plain(options.get("queue")) or DEFAULT_QUEUE,
        "priority": options.get("priority") or 0,
        "verbose_name": _plain(options.get("verbose_name")) or "",
        "max_attempts": options.get("max_attempts"),
        "max_run_time": options.get("max_run_time"),
    }
    if key is not None:
        columns |= {"unique_name": key.name, "unique_key": key.name, "unique_while": key.held_while}
    return columns


def _plain(text: Any) -> str | None:
    """Return the text as a plain ``str``. Those of a background function are plain already."""
    return text if text is None or type(text) is str else as_text(text)


def _row(
    connection: BaseDatabaseWrapper,
    columns: dict[str, Any],
    schedule: float | datetime | None,
    key: UniqueKey | None = None,
) -> Row:
    """Return names, SQL and parameters of a new row. Leave out columns with their default."""
    operations = operations_for(connection)
    given = {name: value for name, value in columns.items() if value not in (None, "")}
    clock = operations.clock(connection)
    params = list(given.values())
    if isinstance(schedule, datetime):
        when = connection.ops.adapt_datetimefield_value(schedule)
        status, run_at = f"CASE WHEN %s <= {clock} THEN 'READY' ELSE 'SCHEDULED' END", "%s"
        params += [when, when]
    elif schedule:
        status = "'SCHEDULED'" if schedule > 0 else "'READY'"
        run_at = operations.clock(connection, "%s")
        params.append(schedule)
    else:
        status, run_at = "'READY'", clock
    names = [*given, "status", "run_at", "enqueued_at"]
    values = [*["%s"] * len(given), status, run_at, clock]
    if key is not None and key.seconds is not None:
        names.append("unique_until")
        values.append(operations.clock(connection, "%s"))
        params.append(key.seconds)
    return names, values, params


def _store(
    alias: str,
    task: Task,
    columns: dict[str, Any],
    schedule: float | datetime | None,
    key: UniqueKey | None,
    on_stored: Callable[[Task], None] | None,
) -> None:
    connection = connections[alias]
    operations = operations_for(connection)
    sql = _row(connection, columns, schedule, key)
    if key is None:
        row = operations.insert(connection, *sql)
    else:
        insert = partial(operations.insert_if_free, connection, *sql, key.name)
        row = store_unique(alias, columns, schedule, key, insert)
        if isinstance(row, Task):
            _become(task, row)
            return
    task.pk, task.status, run_at, enqueued_at = row
    task.run_at, task.enqueued_at = as_read(connection, run_at), as_read(connection, enqueued_at)
    task._state.adding = False
    task._state.db = alias
    if on_stored is not None:
        on_stored(task)
    after_storing(task)


def _become(task: Task, other: Task) -> None:
    """Make the instance that the caller got, or gets, an instance of the other row."""
    task.__dict__.clear()
    task.__dict__.update(other.__dict__)


def _send_enqueued(task: Task) -> None:
    if signals.task_enqueued.receivers:
        signals.send(signals.task_enqueued, task=task)


after_storing = _send_enqueued  # bgtask.testing replaces this function, in order to run the task.


def _other_transaction(connection: BaseDatabaseWrapper) -> str | None:
    """Return the alias of the caller's open transaction if it is not on the queue's database."""
    if connection.in_atomic_block:
        return None
    for other in connections.all(initialized_only=True):
        if other.in_atomic_block and other.alias != connection.alias:
            return other.alias
    return None


hooks.store_task = store_task
hooks.store_tasks = store_tasks
