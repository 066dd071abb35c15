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
attempt failed. A task becomes CANCELLED if somebody asked for that during the attempt. But if the
last attempt fails, the task becomes FAILED all the same, and ``task_failed`` is sent.

The last three signals are sent once per attempt, after the outcome is stored. A worker sends them
from a separate thread, and the traceback of ``error`` then has no local variables.

An error in a receiver is logged, and changes nothing. This includes SystemExit and
asyncio.CancelledError. The code that enqueues a task gets no error, because the task is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.dispatch import Signal

from bgtask.loggers import get_logger, is_ctrl_c

__all__ = ["task_enqueued", "task_failed", "task_retried", "task_started", "task_succeeded"]

logger = get_logger(__name__)


class _Escaped(Exception):
    """Wraps its cause, an error that Django's ``send_robust()`` does not catch."""


class _TaskSignal(Signal):
    """A signal that calls all its receivers, even if one raises SystemExit or CancelledError."""

    def _live_receivers(self, sender: Any) -> Any:
        receivers, async_receivers = super()._live_receivers(sender)
        return list(map(_Contained, receivers)), list(map(_ContainedAsync, async_receivers))


class _Contained:
    """
    A receiver that raises only errors that ``send_robust()`` catches.

    Each call of a signal creates one for each receiver. ``functools.wraps`` would take too long.
    """

    __slots__ = ("receiver",)

    def __init__(self, receiver: Callable[..., Any]) -> None:
        self.receiver = receiver

    def __getattr__(self, name: str) -> Any:
        return getattr(self.receiver, name)  # Django logs the name of a receiver that fails.

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.receiver(*args, **kwargs)
        except BaseException as error:
            if isinstance(error, Exception) or is_ctrl_c(error):
                raise
            raise _Escaped from error


class _ContainedAsync(_Contained):
    """The same for a receiver that is a coroutine function."""

    __slots__ = ()

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await self.receiver(*args, **kwargs)
        except BaseException as error:
            if isinstance(error, Exception) or is_ctrl_c(error):
                raise
            raise _Escaped from error


task_enqueued = _TaskSignal()
task_started = _TaskSignal()
task_succeeded = _TaskSignal()
task_retried = _TaskSignal()
task_failed = _TaskSignal()


def send(signal: Signal, **facts: Any) -> None:
    """Send the signal to all receivers; log the errors of receivers."""
    # A handler of Django's own log of these errors may raise as well.
    task = facts["task"]
    try:
        for receiver, response in signal.send_robust(type(task), **facts):
            if isinstance(response, BaseException):
                _log(receiver, response, task)
    except BaseException as error:
        logger.caught(error, "A signal about %s was not sent to all receivers.", task)


def _log(receiver: Any, error: BaseException, task: Any) -> None:
    logger.error(
        "The receiver %r of a signal about %s failed.",
        getattr(receiver, "__qualname__", receiver.receiver),
        task,
        exc_info=error.__cause__ if isinstance(error, _Escaped) else error,
    )
