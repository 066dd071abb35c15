"""Tell of accepted outcomes: in the log, and to who listens to the signals."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence

from bgtask import signals
from bgtask.lifecycle.outcome import Outcome
from bgtask.status import Status
from bgtask.worker.connections import ConnectionGuard
from bgtask.worker.service import Service

logger = logging.getLogger("bgtask")

Accepted = Sequence[tuple[Outcome, str]]


def dispatch(accepted: Accepted) -> None:
    """Once per accepted attempt, and never before its outcome is stored."""
    for outcome, status in accepted:
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


# Failing for good is an error once, so that mail and Sentry fire once.
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
    A thread for it, since receivers are user code: they must neither delay the next outcome nor
    touch the connection that writes it.
    """

    def __init__(self) -> None:
        self._batches: queue.SimpleQueue[Accepted | None] = queue.SimpleQueue()
        self._put = self._dispatched = 0
        self._lock = threading.Lock()  # Two threads put: who completes, and who rescues.
        super().__init__("events")

    def put(self, accepted: Accepted) -> None:
        if worth_it := [pair for pair in accepted if has_listeners(pair[0])]:
            with self._lock:
                self._put += len(worth_it)
            self._batches.put(worth_it)

    @property
    def backlog(self) -> int:
        """Outcomes that are still to be told of."""
        return self._put - self._dispatched

    def stop(self, timeout: float) -> bool:
        """Say what there is to say, but not for ever; False if some was left unsaid."""
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
                try:
                    dispatch([pair])
                except Exception:  # A logging handler of the project's, for instance.
                    logger.exception("Outcomes could not be announced.")
                guard.after("A signal receiver")
                self._dispatched += 1
                del pair
            del batch  # With the errors, and all that their frames hold.
