"""Call the function of a claimed task, and return the outcome."""

from __future__ import annotations

import contextvars
from dataclasses import dataclass, field
from datetime import datetime

from bgtask import clock, registry, signals
from bgtask.context import CurrentTask, _current
from bgtask.exceptions import (
    Cancelled,
    GiveUp,
    InvalidOption,
    MalformedTask,
    Retry,
    UnknownTask,
)
from bgtask.failures import (
    Failure,
    class_of,
    clear_frames,
    describe,
    plain_failure,
    set_traceback,
)
from bgtask.lifecycle.attempts import Outcome
from bgtask.loggers import get_logger
from bgtask.models import Task
from bgtask.options import check_schedule
from bgtask.retries import delay_after
from bgtask.serialization import load_params
from bgtask.status import AttemptOutcome, Status

logger = get_logger(__name__)

_OURS = "bgtask."  # Modules with this prefix have the frames that come before those of a task.


@dataclass(slots=True)
class _End:
    """The result of the call: a value or an error."""

    value: str | None = None
    error: BaseException | None = None
    started: bool = True  # False if the function could not be called.
    returned: bool = False  # Whether the function has returned, so that its work is done.
    at: float = field(default_factory=clock.monotonic)


def execute(task: Task, current: CurrentTask | None = None) -> Outcome:
    """
    Run the task in this thread and return its outcome; never raise what its code raises.

    Each task runs in its own context. A language or time zone that it activates ends with it.
    """
    started = clock.monotonic()
    context = contextvars.copy_context()
    # No local variable here may refer to an error, because the error's traceback refers to this
    # frame. Such a cycle would keep the task's objects until the next garbage collection.
    return _outcome(task, context.run(_run, task, current or CurrentTask(task)), started)


def _run(task: Task, current: CurrentTask) -> _End:
    _current.set(current)
    try:
        task.check_values()
        function = registry.find(task.task_name)
        args, kwargs = load_params(task.task_params)
    except BaseException as error:
        return _End(error=error, started=False)
    try:
        if signals.task_started.receivers:
            signals.send(signals.task_started, task=task)
        value = function.run(task, args, kwargs)
    except BaseException as error:  # Even sys.exit() must not leave the task RUNNING.
        return _End(error=error)
    ended = clock.monotonic()
    try:
        return _End(value=function.dump_value(task, value), at=ended)
    except BaseException as error:
        return _End(error=error, returned=True, at=ended)


def _outcome(task: Task, end: _End, began: float) -> Outcome:
    outcome = Outcome(task, Status.SUCCESSFUL, end.at - began, end.value, ended=end.at)
    error = end.error
    if error is None:
        return outcome
    outcome.status, outcome.kind, outcome.exception = Status.FAILED, AttemptOutcome.FAILED, error
    outcome.failure = _describe(error, end.started)
    if isinstance(error, Cancelled):
        outcome.status, outcome.kind = Status.CANCELLED, AttemptOutcome.CANCELLED
        return outcome
    malformed = not end.started and isinstance(error, MalformedTask)
    # Work that is done must not be repeated, even if its value can't be kept.
    if malformed or end.returned or isinstance(error, GiveUp) or not task.has_attempts_left:
        return outcome
    outcome.status = Status.SCHEDULED
    if isinstance(error, Retry) and (error.in_ is not None or error.at is not None):
        outcome.delay, outcome.run_at = _chosen(task, error)
    else:
        outcome.delay = delay_after(task)
    return outcome


def _describe(error: BaseException, started: bool) -> Failure:
    """Return the failure, without the frames of bgtask that called the task."""
    # A task that enqueues or looks up other tasks may raise these errors too. They are then
    # reported like any other error, with a traceback.
    if not started and isinstance(error, MalformedTask | UnknownTask):
        set_traceback(error, None)  # The task was not called, so its frames are all of bgtask.
        kind = "malformed" if isinstance(error, MalformedTask) else class_of(error)
        return plain_failure(kind, str(error))
    while (
        (first := error.__traceback__) is not None
        and first.tb_next is not None
        and str(first.tb_frame.f_globals.get("__name__")).startswith(_OURS)
    ):
        set_traceback(error, first.tb_next)
    if isinstance(error, MemoryError):
        # Free the memory that the task used. The other tasks need it, and so does the code that
        # describes this error.
        clear_frames(error)
    return describe(error)


def _chosen(task: Task, retry: Retry) -> tuple[float | None, datetime | None]:
    """Return the delay in seconds, or else the time, of the retry that the task asked for."""
    try:
        when = check_schedule(retry.in_ if retry.at is None else retry.at)
    except BaseException as error:  # The time is invalid, or the task's own object fails.
        why = error if isinstance(error, InvalidOption) else class_of(error)
        logger.warning(
            "%s raised Retry with an invalid time; using the default delay. %s", task, why
        )
        return delay_after(task), None
    return (None, when) if isinstance(when, datetime) else (max(when or 0.0, 0.0), None)
