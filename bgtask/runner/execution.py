"""Call the function of one claimed task, and say how it ended."""

from __future__ import annotations

import contextvars
import logging
import time
import traceback
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bgtask import registry, signals
from bgtask.backoff import Backoff, backoff
from bgtask.calling import call
from bgtask.conf import get_settings
from bgtask.context import CurrentTask, _current
from bgtask.errors import Failure, class_of, describe, plain_failure
from bgtask.exceptions import (
    Cancelled,
    GiveUp,
    InvalidOption,
    InvalidParameters,
    MalformedTask,
    Retry,
    UnknownTask,
)
from bgtask.models import Task
from bgtask.models.outcome import Outcome
from bgtask.options import check_schedule
from bgtask.serialization import dump_value, load_params
from bgtask.status import AttemptOutcome, Status

logger = logging.getLogger("bgtask")

_CALLERS = (__name__, call.__module__)  # Modules whose frames come before those of a task.


@dataclass(slots=True)
class _End:
    """What came of the call."""

    value: str | None = None
    error: BaseException | None = None
    started: bool = True  # Or could the function not even be called?
    at: float = field(default_factory=time.monotonic)


def execute(task: Task, current: CurrentTask | None = None) -> Outcome:
    """
    Run the task here; whatever its code raises is an outcome, never an exception.

    Each runs in a context of its own, so that what it activates (language, time zone) ends with
    it.
    """
    started = time.monotonic()
    context = contextvars.copy_context()
    # Nothing here may keep an error, for an error keeps this frame: the circle, with all that the
    # task had in its hands, would last until the garbage is collected.
    return _outcome(task, context.run(_run, task, current or CurrentTask(task)), started)


def _run(task: Task, current: CurrentTask) -> _End:
    _current.set(current)
    try:
        task.check_values()
        function = registry.find(task.task_name).function
        args, kwargs = load_params(task.task_params)
    except BaseException as error:
        return _End(error=error, started=False)
    try:
        if signals.task_started.receivers:
            signals.announce(signals.task_started, task=task)
        return _End(value=_kept(task, call(function, args, kwargs)))
    except BaseException as error:  # Even sys.exit() must not leave the task RUNNING.
        return _End(error=error)


def _kept(task: Task, value: Any) -> str | None:
    """
    The return value as JSON.

    One that JSON cannot hold is no failure: the work is done, and to do it again for the sake of
    a value nobody asked for would be worse.
    """
    try:
        return dump_value(value)
    except InvalidParameters as error:
        logger.warning("%s succeeded, but its return value is not kept. %s", task, error)
        return None


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
    if malformed or isinstance(error, GiveUp) or not task.has_attempts_left:
        return outcome
    outcome.status = Status.SCHEDULED
    if isinstance(error, Retry) and (error.in_ is not None or error.at is not None):
        outcome.delay, outcome.run_at = _chosen(task, error)
    else:
        outcome.delay = _wait(task)
    return outcome


def _describe(error: BaseException, started: bool) -> Failure:
    """The traceback without the frames that called the task, which say nothing to anybody."""
    # What a task raises that itself asks for others is an error like any other.
    if not started and isinstance(error, MalformedTask | UnknownTask):
        kind = "malformed" if isinstance(error, MalformedTask) else class_of(error)
        return plain_failure(kind, str(error))
    while (
        (first := error.__traceback__) is not None
        and first.tb_next is not None
        and first.tb_frame.f_globals.get("__name__") in _CALLERS
    ):
        error.__traceback__ = first.tb_next
    if isinstance(error, MemoryError):
        # What the task took is wanted by its neighbours, and to write this very error down.
        traceback.clear_frames(error.__traceback__)
    return describe(error)


def _chosen(task: Task, retry: Retry) -> tuple[float | None, datetime | None]:
    """When the task itself wants to be tried again."""
    try:
        when = check_schedule(retry.in_ if retry.at is None else retry.at)
    except Exception as error:  # Invalid or, being the task's own, worse.
        why = error if isinstance(error, InvalidOption) else class_of(error)
        logger.warning("%s chose no time to be tried again; waiting as usual. %s", task, why)
        return _wait(task), None
    return (None, when) if isinstance(when, datetime) else (max(when or 0.0, 0.0), None)


def _wait(task: Task) -> float:
    rule: Backoff | None = None
    if registry.knows(task.task_name):
        rule = registry.find(task.task_name).backoff
    jitter = get_settings().retry_jitter
    try:
        return backoff(task.attempts, rule, jitter)
    except Exception:
        logger.exception("The back-off of %s failed; waiting as long as by default.", task)
        return backoff(task.attempts, None, jitter)
