"""
Send the signals of Django's API: task_enqueued, task_started and task_finished.

Django itself receives each of them in order to log it. If nobody else does and the log would drop
the line, no result is built and nothing is sent.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bgtask import registry
from bgtask.backend import aliases, api, results
from bgtask.exceptions import UnknownTask
from bgtask.loggers import get_logger
from bgtask.status import FINISHED, Status

logger = get_logger(__name__)


def has_receivers(signal: Any) -> bool:
    """Return whether the signal has other receivers than Django's own, which logs it."""
    receivers = signal.receivers
    if len(receivers) == 1:
        return bool(receivers[0][0][0] != id(api.LOG_RECEIVERS[signal]))
    return bool(receivers)


def is_wanted(signal: Any, level: int) -> bool:
    """Return whether anybody receives the signal. Django logs it at this level."""
    return has_receivers(signal) or (bool(signal.receivers) and api.logger.isEnabledFor(level))


def send(signal: Any, backend: Any, result: Any) -> None:
    """Send a signal. The errors of receivers are logged, and change nothing."""
    with logger.catch("A receiver of a signal about %s failed.", result.id):
        if has_receivers(signal):
            signal.send_robust(type(backend), task_result=result)
        else:  # Calling the only receiver takes half the time.
            api.LOG_RECEIVERS[signal](type(backend), task_result=result)


def enqueued(backend: Any, result: Any) -> None:
    if is_wanted(api.task_enqueued, logging.DEBUG):
        send(api.task_enqueued, backend, result)


def started(row: Any, task: Any, params: tuple[Any, Any]) -> Any | None:
    """
    Send task_started, and return the result of this attempt, or None if nobody needs it.

    ``row`` was claimed by this worker, and ``task`` is its definition.
    """
    # A row without an alias was not stored by a backend, so nobody expects its signals.
    tell = bool(row.backend) and is_wanted(api.task_started, logging.INFO)
    if not tell and not task.takes_context:
        return None
    backend = aliases.backend_of(row.backend)
    if task.takes_context or has_receivers(api.task_started):
        result = results.result_of_claim(row, task, _alias(backend, task), params)
    else:
        result = results.result_for_the_log(row, task, Status.RUNNING, row.backend)
    if tell and backend is not None:
        send(api.task_started, backend, result)
    return result


def _alias(backend: Any | None, task: Any) -> str:
    return task.backend if backend is None else backend.alias  # type: ignore[no-any-return]


class FinishObserver:
    """Send task_finished once the outcome of a last attempt is stored."""

    def wants(self, outcome: Any, status: str) -> bool:
        if not outcome.task.backend or status not in FINISHED:
            return False
        level = logging.INFO if status == Status.SUCCESSFUL else logging.ERROR
        return is_wanted(api.task_finished, level)

    def observe(self, accepted: Sequence[tuple[Any, str]]) -> None:
        # Finding a task may import its module, and that may connect a receiver. So find them first.
        tasks = {outcome.task.task_name: outcome.task for outcome, _ in accepted}
        definitions = {name: _definition_of(row) for name, row in tasks.items()}
        known = [
            (outcome, status, task)
            for outcome, status in accepted
            if (task := definitions[outcome.task.task_name]) is not None
        ]
        if has_receivers(api.task_finished):
            self._send_results(known)
            return
        for outcome, status, task in known:
            build = partial(results.result_for_the_log, outcome.task, task, Status(status))
            _send_finished(outcome, build)

    def _send_results(self, known: Sequence[tuple[Any, str, Any]]) -> None:
        """Read the rows of the batch and their history by two queries, and send the results."""
        from bgtask.models import Attempt, Task

        rows = Task.objects.in_bulk([outcome.task.pk for outcome, _, _ in known])
        history: dict[int, list[Any]] = defaultdict(list)
        for attempt in Attempt.objects.filter(task_id__in=list(rows)).order_by("task_id", "token"):
            history[attempt.task_id].append(attempt)
        for outcome, status, task in known:
            row = rows.get(outcome.task.pk)
            if row is not None:
                row.status = status  # An operator may have requeued the task since.
                build = partial(results.result_of_row, row, task, history[row.pk])
                _send_finished(outcome, build)


def _definition_of(row: Any) -> Any | None:
    try:
        return registry.find(row.task_name).task  # type: ignore[attr-defined]
    except (UnknownTask, AttributeError):
        # A process that does not know the function can still fail a task, by a rescue.
        logger.error("%s has ended, and its function is not known to send task_finished.", row)
        return None


def _send_finished(outcome: Any, build: Callable[[str], Any]) -> None:
    """Send the result that ``build(alias)`` returns."""
    error = outcome.exception
    backend = aliases.backend_of(outcome.task.backend)
    if backend is None:
        return
    result = build(backend.alias)
    if error is None:
        send(api.task_finished, backend, result)
        return
    frames = error.__traceback__
    try:
        raise error  # Receivers may use sys.exc_info(), as Django's own does.
    except BaseException:
        error.__traceback__ = frames  # Without the frame of this function.
        send(api.task_finished, backend, result)
