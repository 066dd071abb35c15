"""Define the signals that other apps can receive.

Each signal is sent with ``sender=Task`` and ``task``. ``task_failed`` and ``task_retried`` have
``error`` as well. It is the exception, or None where the worker lost the attempt.

- ``task_enqueued``: the task is stored. Its transaction may still be rolled back.
- ``task_started``: a worker is about to call the function.
- ``task_succeeded``: the task is SUCCESSFUL.
- ``task_retried``: an attempt failed or was interrupted, and another attempt will follow.
- ``task_failed``: the task is FAILED, and no attempt will follow. It is sent once.

An attempt whose task becomes CANCELLED sends neither ``task_retried`` nor ``task_failed``, even if
the attempt failed. A task that an operator requeues can fail for good again: then ``task_failed``
is sent again.

The last three are sent once per attempt, after the outcome is stored, from a thread of their own.
An error in a receiver is logged, and changes nothing.
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


def announce(signal: Signal, **facts: Any) -> None:
    """Tell all who listen, whatever one of them does."""
    try:
        responses = signal.send_robust(type(facts["task"]), **facts)
    except SystemExit as error:  # It is not for a receiver to say, nor to fail the task by it.
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
