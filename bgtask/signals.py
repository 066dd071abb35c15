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
    Sent after an attempt has failed or was interrupted, if another attempt will follow.
``task_failed``
    Sent once, after a task has become FAILED. No attempt will follow. If an operator requeues the
    task and it fails for good again, the signal is sent again.

If a task becomes CANCELLED, neither ``task_retried`` nor ``task_failed`` is sent, even if the
attempt failed.

The last three signals are sent once per attempt, after the outcome is stored. A worker sends them
from a separate thread. An error in a receiver is logged, and changes nothing.
"""

from __future__ import annotations

import logging
from typing import Any

from django.dispatch import Signal

__all__ = ["task_enqueued", "task_failed", "task_retried", "task_started", "task_succeeded"]

logger = logging.getLogger("bgtask")

task_enqueued = Signal()
task_started = Signal()
task_succeeded = Signal()
task_retried = Signal()
task_failed = Signal()


def send(signal: Signal, **facts: Any) -> None:
    """Send the signal to all receivers; log the errors of receivers."""
    try:
        responses = signal.send_robust(type(facts["task"]), **facts)
    except SystemExit as error:  # A receiver must not end the worker or fail the task.
        logger.error("A receiver of a signal about %s exited.", facts["task"], exc_info=error)
        return
    for receiver, response in responses:
        if isinstance(response, BaseException):
            logger.error(
                "The receiver %r of a signal about %s failed.",
                getattr(receiver, "__qualname__", receiver),
                facts["task"],
                exc_info=response,
            )
