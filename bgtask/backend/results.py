"""
Build a TaskResult from the row of a task and its history.

Nothing is validated here. An operator may have moved a task to a queue, or given it a priority,
that Django's own rules do not allow. Its result must still be readable.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

from django.conf import settings
from django.db import connections
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from bgtask.backend import api
from bgtask.db.routing import as_read
from bgtask.db.sql import RETURNED, as_count
from bgtask.exceptions import MalformedTask
from bgtask.serialization import load_params
from bgtask.status import AttemptOutcome, Status

MOST_WORKERS = 10_000  # The number of attempts may have been edited by hand.
CANCELLED = "bgtask.exceptions.Cancelled"

_RESULT_ID = RETURNED.index("result_id")
_STATUSES = {
    Status.SCHEDULED: api.TaskResultStatus.READY,
    Status.READY: api.TaskResultStatus.READY,
    Status.HELD: api.TaskResultStatus.READY,
    Status.RUNNING: api.TaskResultStatus.RUNNING,
    Status.SUCCESSFUL: api.SUCCESSFUL,
    Status.FAILED: api.TaskResultStatus.FAILED,
    Status.CANCELLED: api.TaskResultStatus.FAILED,
}
_WAITING = (Status.SCHEDULED, Status.READY, Status.HELD)


def may_have_history(row: Any) -> bool:
    """Return whether the row may have rows of history. Each claim raises the token."""
    return bool(row.token)


def read_history(row: Any) -> list[Any]:
    """Return the attempts of this task that did not succeed, in their order."""
    return list(row.history.order_by("token")) if may_have_history(row) else []


def result_of_row(row: Any, task: Any, history: Sequence[Any], alias: str) -> Any:
    """Return the result of a row. ``task`` is the definition, and ``alias`` that of its backend."""
    try:
        params = load_params(row.task_params)
    except MalformedTask:
        params = [], {}
    return _result(row, task, history, alias, params)


def result_for_the_log(row: Any, task: Any, status: Status, alias: str) -> Any:
    """Return a result that has only what Django's own receivers log: id, task and status."""
    # A task that was rescued comes from no claim, so its field is read.
    result_id = row.returned[_RESULT_ID] if row.returned else row.result_id
    return _new(
        api.TaskResult,
        task=task,
        id=_id(result_id),
        status=_STATUSES[status],
        backend=alias,
    )


def result_of_claim(row: Any, task: Any, alias: str, params: tuple[Any, Any]) -> Any:
    """
    Return the result of a task that this worker has just claimed.

    A first attempt needs no query, because the claim has returned what the result needs.
    """
    raw = dict(zip(RETURNED, row.returned, strict=False))
    connection = connections[row._state.db]
    run_at = _as_read(connection, row.claim_key[1])
    locked_at = _as_read(connection, raw["locked_at"])
    if locked_at is None and run_at is not None:  # MariaDB returns the row as it was before.
        locked_at = run_at + timedelta(seconds=row.waited)
    facts = SimpleNamespace(
        status=Status.RUNNING,
        result_id=raw["result_id"],
        enqueued_at=_as_read(connection, raw["enqueued_at"]),
        started_at=_as_read(connection, raw["started_at"]),
        locked_at=locked_at,
        run_at=run_at,
        finished_at=None,
        duration_ms=None,
        return_value=None,
        **{name: getattr(row, name) for name in ("queue", "priority", "attempts", "last_worker")},
    )
    is_first = as_count(row.attempts) == 1 and not row.crashes and raw["started_at"] is None
    history = [] if is_first else read_history(row)
    return _result(facts, task, history, alias, params)


def result_of_stored(row: Any, task: Any, alias: str, params: tuple[Any, Any]) -> Any:
    """Return the result of a row that was just stored by this process."""
    return _result(row, task, (), alias, params)


def result_of_unstored(
    row: Any, task: Any, alias: str, params: tuple[Any, Any], schedule: float | datetime | None
) -> Any:
    """
    Return the result of a row that is stored when another database's transaction commits.

    Its times are those of this host until then.
    """
    now = timezone.now()
    if isinstance(schedule, datetime):
        run_at = schedule
    else:
        run_at = now + timedelta(seconds=schedule or 0.0)
    row.enqueued_at, row.run_at = now, run_at  # The row gets the database's times later.
    return _result(row, task, (), alias, params)


def copy_of(task: Any, **changes: Any) -> Any:
    """Return a copy of a Task with other values, without the checks of ``using()``."""
    own = {field.name: getattr(task, field.name) for field in fields(task)}
    return _new(type(task), **{**own, **changes})


def _result(row: Any, task: Any, history: Sequence[Any], alias: str, params: Any) -> Any:
    status = Status(row.status)
    args, kwargs = params
    started_at = _started_at(row, history)
    last_attempted_at = _last_attempted_at(row, status, history)
    if started_at is not None and last_attempted_at is not None:
        # The row and its history got the same time from two readings of the clock.
        last_attempted_at = max(started_at, last_attempted_at)
    return _new(
        api.TaskResult,
        task=_as_stored(task, row, _run_after(row, status), alias),
        id=_id(row.result_id),
        status=_STATUSES[status],
        enqueued_at=row.enqueued_at,
        started_at=started_at,
        finished_at=row.finished_at,
        last_attempted_at=last_attempted_at,
        args=list(args),
        kwargs=kwargs,
        backend=alias,
        errors=_errors(row, status, history),
        worker_ids=_worker_ids(row, status, history),
        _return_value=_return_value(row.return_value),
    )


def _as_stored(task: Any, row: Any, run_after: datetime | None, alias: str) -> Any:
    """Return the definition with the values of the row, or itself if it has them already."""
    stored = (row.priority, row.queue, run_after, alias)
    if stored == (task.priority, task.queue_name, task.run_after, task.backend):
        return task
    priority, queue_name, run_after, backend = stored
    return copy_of(
        task, priority=priority, queue_name=queue_name, run_after=run_after, backend=backend
    )


def _new(kind: type[Any], **values: Any) -> Any:
    """Return an instance of a frozen dataclass without its checks."""
    instance = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(instance, name, value)
    return instance


def _id(result_id: Any) -> str:
    return str(result_id).replace("-", "") if result_id is not None else ""


def _run_after(row: Any, status: Status) -> datetime | None:
    """Return the time before which the task was not to run. A retry has changed the column."""
    executed_at_most = 0 if status in _WAITING else 1
    if status == Status.SCHEDULED or (
        as_count(row.attempts) <= executed_at_most and row.run_at != row.enqueued_at
    ):
        return row.run_at  # type: ignore[no-any-return]
    return None


def _started_at(row: Any, history: Sequence[Any]) -> datetime | None:
    """Return when the first attempt started. The row has the time only once an attempt ended."""
    started = [row.started_at, *(attempt.started_at for attempt in history), row.locked_at]
    return next((time for time in started if time is not None), None)


def _last_attempted_at(row: Any, status: Status, history: Sequence[Any]) -> datetime | None:
    if status == Status.RUNNING:
        return row.locked_at  # type: ignore[no-any-return]
    if status == Status.SUCCESSFUL and row.finished_at is not None:
        return row.finished_at - timedelta(milliseconds=row.duration_ms or 0)  # type: ignore[no-any-return]
    started = [attempt.started_at for attempt in history if attempt.started_at is not None]
    return started[-1] if started else row.started_at  # type: ignore[no-any-return]


def _errors(row: Any, status: Status, history: Iterable[Any]) -> list[Any]:
    # An interruption is no error of the task. It was given back its attempt.
    ended = [one for one in history if one.outcome != AttemptOutcome.INTERRUPTED]
    errors = [_error(attempt.error_class, attempt.traceback) for attempt in ended]
    if status == Status.FAILED and not errors:
        errors.append(_error(row.error_class, row.last_error))
    if status == Status.CANCELLED and not (ended and ended[-1].outcome == AttemptOutcome.CANCELLED):
        errors.append(_error(CANCELLED, f"{CANCELLED}: The task was cancelled while it waited.\n"))
    return errors


def _error(error_class: str, traceback: str) -> Any:
    path = error_class or "Exception"
    if path == "malformed":
        path = "bgtask.exceptions.MalformedTask"
    elif "." not in path:
        path = f"builtins.{path}"
    return api.TaskError(exception_class_path=path, traceback=traceback)


def _worker_ids(row: Any, status: Status, history: Iterable[Any]) -> list[str]:
    """Return a worker for each attempt. A success has no row of history, so its worker is lost."""
    attempts = min(as_count(row.attempts), MOST_WORKERS)
    workers = {attempt.number: attempt.worker for attempt in history}
    if status in (Status.RUNNING, Status.SUCCESSFUL):
        workers[attempts] = row.last_worker
    return [workers.get(number, "") for number in range(1, attempts + 1)]


def _return_value(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, TypeError, RecursionError):  # The row was edited by hand.
        return None


def _as_read(connection: Any, value: Any) -> datetime | None:
    """Convert a time as the claim returned it. Return None for one that is no date."""
    if isinstance(value, str):
        try:
            value = parse_datetime(value)
        except ValueError:
            value = None
    if value is None:
        return None
    if settings.USE_TZ or timezone.is_naive(value):
        return as_read(connection, value)  # type: ignore[no-any-return]
    return timezone.make_naive(value, timezone.get_default_timezone())
