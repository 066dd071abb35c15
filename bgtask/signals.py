"""Define the signals that other apps can receive.

Each signal is sent with these arguments:

``sender``
    The class ``Task``.
``task``
    The task.
``error``
    Only with ``task_retried`` and ``task_failed``. The exception that ended the attempt, or None
    if the worker lost the attempt.

``task_enqueued``
    Sent after a task is stored, by the code that enqueues the task. The transaction may still be
    rolled back.
``task_started``
    Sent just before a worker calls the function, in the thread that calls the function.
``task_succeeded``
    Sent after a task has become SUCCESSFUL.
``task_retried``
    Sent after an attempt has failed or was interrupted, if the task waits for another attempt.
    Somebody may still cancel the task before that attempt.
``task_failed``
    Sent once, after a task has become FAILED. No attempt will follow. If an operator requeues the
    task and it fails for good again, the signal is sent again.

If a task becomes CANCELLED, neither ``task_retried`` nor ``task_failed`` is sent, even if the
attempt failed. This is so if somebody asked to cancel the task during the attempt. A last attempt
that fails makes the task FAILED all the same, and sends ``task_failed``.

The last three signals are sent once per attempt, after the outcome is stored. A worker sends them
from a separate thread, and the traceback of ``error`` then has no local variables.

An error in a receiver is logged, and changes nothing. This includes SystemExit and
asyncio.CancelledError. The code that enqueues a task is not told, because the task is stored.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.dispatch import Signal

from bgtask.loggers import get_logger, is_ctrl_c

__all__ = ["task_enqueued", "task_failed", "task_retried", "task_started", "task_succeeded"]

logger = get_logger(__name__)


class _Escaped(Exception):
    """Stands for its cause, an error that Django's ``send_robust()`` does not catch."""


class _TaskSignal(Signal):
    """A signal that calls all its receivers, even if one raises SystemExit or CancelledError."""

    def _live_receivers(self, sender: Any) -> Any:
        receivers, async_receivers = super()._live_receivers(sender)
        return (
            [_contained(receiver) for receiver in receivers],
            [_contained_async(receiver) for receiver in async_receivers],
        )


def _contained(receiver: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(receiver)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return receiver(*args, **kwargs)
        except BaseException as error:
            if isinstance(error, Exception) or is_ctrl_c(error):
                raise
            raise _Escaped from error

    return call


def _contained_async(receiver: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(receiver)
    async def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return await receiver(*args, **kwargs)
        except BaseException as error:
            if isinstance(error, Exception) or is_ctrl_c(error):
                raise
            raise _Escaped from error

    return call


task_enqueued = _TaskSignal()
task_started = _TaskSignal()
task_succeeded = _TaskSignal()
task_retried = _TaskSignal()
task_failed = _TaskSignal()


def send(signal: Signal, **facts: Any) -> None:
    """Send the signal to all receivers; log the errors of receivers."""
    try:
        responses = signal.send_robust(type(facts["task"]), **facts)
    except BaseException as error:  # From a handler of Django's own log of these errors.
        if is_ctrl_c(error):
            raise
        logger.error("A signal about %s was not sent to all.", facts["task"], exc_info=error)
        return
    for receiver, response in responses:
        if isinstance(response, BaseException):
            receiver = inspect.unwrap(receiver)
            logger.error(
                "The receiver %r of a signal about %s failed.",
                getattr(receiver, "__qualname__", receiver),
                facts["task"],
                exc_info=response.__cause__ if isinstance(response, _Escaped) else response,
            )
