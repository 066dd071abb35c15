"""Store tasks: one by a single statement, many by one for each thousand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask import signals
from bgtask.conf import DEFAULT_QUEUE
from bgtask.dialects import dialect_of
from bgtask.exceptions import InvalidParameters
from bgtask.models.manager import as_read
from bgtask.options import SECOND_NAMES, TaskOptions, check_names
from bgtask.serialization import dump_params

if TYPE_CHECKING:
    from bgtask.models.task import Task

BATCH_ROWS = 1_000
SMALL_BYTES = 16 * 2**10  # A text up to this size is sent without asking for the database's limit.
# The back-off is not kept with a task. Second names are translated by the caller.
_OPTIONS = TaskOptions.__annotations__.keys() - {"backoff"} - SECOND_NAMES.keys()

Row = tuple[list[str], list[str], list[Any]]
Params = tuple[Sequence[Any], dict[str, Any]]


def enqueue(model: type[Task], alias: str, name: str, params: Params, options: Any) -> Task:
    """See TaskQuerySet.enqueue."""
    check_names(options, _OPTIONS)
    return _enqueue(model, alias, name, dump_params(*params), options)


def _enqueue(model: type[Task], alias: str, name: str, text: str, options: Any) -> Task:
    _check_size(connections[alias], text)
    columns = _columns(name, options)
    columns["task_params"] = text
    schedule = options.get("schedule")
    # Their values are the database's to say.
    unknown = {"run_at": schedule if isinstance(schedule, datetime) else None, "enqueued_at": None}
    task = model(**columns, **unknown)
    store = partial(_store, alias, task, columns, schedule)
    if (other := _other_transaction(connections[alias])) is None:
        store()
    else:
        transaction.on_commit(store, using=other)
    return task


def enqueue_many(
    model: type[Task], alias: str, name: str, params: Iterable[Params], options: Any
) -> int:
    """See TaskQuerySet.enqueue_many."""
    check_names(options, _OPTIONS)
    # Where somebody listens, he is to be told of each.
    each = signals.task_enqueued.receivers or after_storing is not _announce
    store = _store_each if each else _store_all
    other = _other_transaction(connections[alias])
    texts = _texts(params)
    if other is None:
        return store(model, alias, name, texts, options)
    known = list(texts)  # What is wrong is to be said at the call.
    for text in known:
        _check_size(connections[alias], text)
    transaction.on_commit(partial(store, model, alias, name, known, options), using=other)
    return len(known)


def _texts(params: Iterable[Params]) -> Iterator[str]:
    """Each as JSON; raises InvalidParameters naming the item that is wrong."""
    for number, (args, kwargs) in enumerate(params):
        try:
            text = dump_params(args, kwargs)
        except InvalidParameters as error:
            raise InvalidParameters(f"Item {number}: {error}") from error
        yield text


def _store_all(model: type[Task], alias: str, name: str, texts: Iterable[str], options: Any) -> int:
    connection = connections[alias]
    dialect = dialect_of(connection)
    columns = _columns(name, options)
    row = _row(connection, columns, options.get("schedule"))
    total = 0
    with dialect.transaction(connection):
        for batch in _batches(connection, row, texts):
            dialect.insert_many(connection, *row, batch)
            total += len(batch)
        if total:
            dialect.wake(connection, columns["queue"])
    return total


def _batches(
    connection: BaseDatabaseWrapper, row: Row, texts: Iterable[str]
) -> Iterator[list[str]]:
    """Texts for one statement each: bounded in rows, and in bytes."""
    dialect = dialect_of(connection)
    _names, values, params = row
    # Each row repeats the SQL and the values that all rows share.
    shared = sum(map(len, values)) + sum(dialect.sent_bytes(str(one)) + 4 for one in params) + 16
    room = dialect.statement_bytes(connection)
    batch: list[str] = []
    used = 0
    for text in texts:
        size = dialect.sent_bytes(text) + shared
        if size > room:
            _refuse_size(connection, text)
        if batch and (used + size > room or len(batch) == BATCH_ROWS):
            yield batch
            batch, used = [], 0
        batch.append(text)
        used += size
    if batch:
        yield batch


def _check_size(connection: BaseDatabaseWrapper, text: str) -> None:
    """Raise InvalidParameters if the database does not take a statement of this size."""
    if len(text) <= SMALL_BYTES:
        return
    dialect = dialect_of(connection)
    if dialect.sent_bytes(text) > dialect.statement_bytes(connection):
        _refuse_size(connection, text)


def _refuse_size(connection: BaseDatabaseWrapper, text: str) -> NoReturn:
    dialect = dialect_of(connection)
    raise InvalidParameters(
        f"The parameters take {dialect.sent_bytes(text):,} bytes in a statement, which is too "
        f"many for the database's limit ({dialect.limit_in_words(connection)}). Keep large data "
        "in a model or a file and pass its key, or raise that limit."
    )


def _store_each(
    model: type[Task], alias: str, name: str, texts: Iterable[str], options: Any
) -> int:
    total = 0
    connection = connections[alias]
    with dialect_of(connection).transaction(connection):
        for text in texts:
            _enqueue(model, alias, name, text, options)
            total += 1
    return total


def _columns(task_name: str, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "task_name": task_name,
        "queue": options.get("queue") or DEFAULT_QUEUE,
        "priority": options.get("priority") or 0,
        "verbose_name": options.get("verbose_name") or "",
        "max_attempts": options.get("max_attempts"),
        "max_run_time": options.get("max_run_time"),
    }


def _row(
    connection: BaseDatabaseWrapper, columns: dict[str, Any], schedule: float | datetime | None
) -> Row:
    """Names, SQL and parameters of a new row; what a default says is left out."""
    dialect = dialect_of(connection)
    given = {name: value for name, value in columns.items() if value not in (None, "")}
    clock = dialect.clock(connection)
    params = list(given.values())
    if isinstance(schedule, datetime):
        when = connection.ops.adapt_datetimefield_value(schedule)
        status, run_at = f"CASE WHEN %s <= {clock} THEN 'READY' ELSE 'SCHEDULED' END", "%s"
        params += [when, when]
    elif schedule:
        status = "'SCHEDULED'" if schedule > 0 else "'READY'"
        run_at = dialect.clock(connection, "%s")
        params.append(schedule)
    else:
        status, run_at = "'READY'", clock
    names = [*given, "status", "run_at", "enqueued_at"]
    return names, [*["%s"] * len(given), status, run_at, clock], params


def _store(
    alias: str, task: Task, columns: dict[str, Any], schedule: float | datetime | None
) -> None:
    connection = connections[alias]
    row = dialect_of(connection).insert(connection, *_row(connection, columns, schedule))
    task.pk, task.status, run_at, enqueued_at = row
    task.run_at, task.enqueued_at = as_read(connection, run_at), as_read(connection, enqueued_at)
    task._state.adding = False
    task._state.db = alias
    after_storing(task)


def _announce(task: Task) -> None:
    if signals.task_enqueued.receivers:
        signals.announce(signals.task_enqueued, task=task)


after_storing = _announce  # A seam for bgtask.testing, which runs the task.


def _other_transaction(connection: BaseDatabaseWrapper) -> str | None:
    """The database on which the caller has a transaction open, if it is not the queue's."""
    if connection.in_atomic_block:
        return None
    for other in connections.all(initialized_only=True):
        if other.in_atomic_block and other.alias != connection.alias:
            return other.alias
    return None
