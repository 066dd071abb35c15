"""What other apps may listen to.

Each is sent with ``sender=Task`` and ``task``. Those about an outcome are sent once per attempt
whose outcome was accepted, after it is stored, from a thread that runs nothing else. A receiver
that raises is logged, and changes nothing.
"""

from __future__ import annotations

import logging
from typing import Any

from django.dispatch import Signal

logger = logging.getLogger("bgtask")

task_enqueued = Signal()  # Stored; the transaction it is part of may still be rolled back.
task_started = Signal()  # About to be called.
task_succeeded = Signal()
# An attempt failed: error, or None if it was taken from its worker. One of the next two follows.
task_failed = Signal()
task_retried = Signal()  # Another attempt will follow: error; None after an interruption, too.
task_given_up = Signal()  # FAILED, no attempt will follow: error.


def send(signal: Signal, **facts: Any) -> None:
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
