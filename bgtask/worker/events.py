"""Log finished attempts and send their signals."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from bgtask import observers, signals
from bgtask.lifecycle.outcome import Outcome
from bgtask.status import Status
from bgtask.worker.connections import ConnectionGuard
from bgtask.worker.service import Service

logger = logging.getLogger("bgtask")

Accepted = Sequence[tuple[Outcome, str]]


def dispatch(accepted: Accepted) -> None:
    """Log and signal each accepted attempt once. Call this only after its outcome is stored."""
    for outcome, status in accepted:
        _dispatch_one(outcome, status)
    observers.tell_observers(accepted)


def _dispatch_one(outcome: Outcome, status: str) -> None:
    if outcome.kind is None:
        _success(outcome)
    else:
        _failure(outcome, status)


def _success(outcome: Outcome) -> None:
    task = outcome.task
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("%s succeeded in %.3f s.", task, outcome.duration)
    if signals.task_succeeded.receivers:
        task.status = Status.SUCCESSFUL
        signals.send(signals.task_succeeded, task=task)


def _failure(outcome: Outcome, status: str) -> None:
    task, error = outcome.task, outcome.exception
    level, what = _WORDS[Status(status)]
    if status == Status.FAILED and observers.is_observed(outcome, status):
        level = logging.INFO  # Django's receiver of its own signal logs the error.
    logger.log(
        level,
        "%s %s; attempt %d of %d %s.\n%s",
        task,
        what,
        task.attempts,
        task.executions_allowed,
        outcome.kind and outcome.kind.value.replace("_", " "),
        outcome.failure.traceback if outcome.failure else "",
    )
    task.status = status
    if status in (Status.SCHEDULED, Status.READY) and signals.task_retried.receivers:
        signals.send(signals.task_retried, task=task, error=error)
    if status == Status.FAILED and signals.task_failed.receivers:
        signals.send(signals.task_failed, task=task, error=error)


# Only the final failure is logged as an error, so that mail and Sentry report a task once.
_WORDS = {
    Status.READY: (logging.WARNING, "will be tried again"),
    Status.SCHEDULED: (logging.WARNING, "will be tried again"),
    Status.FAILED: (logging.ERROR, "has failed"),
    Status.CANCELLED: (logging.WARNING, "is cancelled"),
}


def has_listeners(outcome: Outcome) -> bool:
    return (
        outcome.kind is not None
        or bool(signals.task_succeeded.receivers)
        or logger.isEnabledFor(logging.DEBUG)
    )


class EventDispatcher(Service):
    """
    Log and signal accepted outcomes on a thread of its own.

    Signal receivers are code of the project. They must not delay the next outcome, and they must
    not touch the connection that writes outcomes.
    """

    def __init__(self) -> None:
        self._batches: queue.SimpleQueue[Accepted | None] = queue.SimpleQueue()
        self._put = self._dispatched = 0
        # The completer's thread and the maintenance thread both call put().
        self._lock = threading.Lock()
        super().__init__("events")

    def put(self, accepted: Accepted) -> None:
        worth_it = [
            (outcome, status)
            for outcome, status in accepted
            if has_listeners(outcome) or observers.is_observed(outcome, status)
        ]
        if worth_it:
            with self._lock:
                self._put += len(worth_it)
            self._batches.put(worth_it)

    @property
    def backlog(self) -> int:
        """Return the number of outcomes that are not dispatched yet."""
        return self._put - self._dispatched

    def stop(self, timeout: float) -> bool:
        """Dispatch what is left; return False if ``timeout`` seconds were not enough."""
        self._batches.put(None)
        self._thread.join(max(timeout, 0.0))
        if self.backlog:
            logger.error("%d outcomes are written, and were not announced.", self.backlog)
        return not self.backlog

    def _run(self) -> None:
        guard = ConnectionGuard()
        while (batch := self._batches.get()) is not None:
            guard.before()
            for pair in batch:
                if not has_listeners(pair[0]):
                    continue
                self._attempt(guard, _dispatch_one, *pair)
                del pair
            # Observers read the rows of a batch together.
            self._attempt(guard, observers.tell_observers, batch)
            self._dispatched += len(batch)
            del batch  # Free the errors, and everything that their frames refer to.

    def _attempt(self, guard: ConnectionGuard, step: Callable[..., None], *args: Any) -> None:
        try:
            step(*args)
        except Exception:  # From a logging handler of the project, for instance.
            logger.exception("Outcomes could not be announced.")
        guard.after("A signal receiver")
