"""Log finished attempts and send their signals."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence

from bgtask import observers, signals
from bgtask.db.routing import database_now, queue_alias
from bgtask.failures import printable
from bgtask.lifecycle.attempts import Outcome
from bgtask.loggers import get_logger
from bgtask.status import Status
from bgtask.worker.connections import ConnectionGuard
from bgtask.worker.service import Service
from bgtask.worker.statistics import Statistics

logger = get_logger(__name__)

Accepted = Sequence[tuple[Outcome, str]]


def dispatch(accepted: Accepted, success_level: int = logging.DEBUG) -> None:
    """Log and signal each accepted attempt once. Call this only after its outcome is stored."""
    for outcome, status in accepted:
        _dispatch_one(outcome, status, success_level)
    _notify_observers(accepted)


def _notify_observers(accepted: Accepted) -> None:
    with logger.catch("The observers of outcomes failed."):
        observers.notify(accepted)


def _dispatch_one(outcome: Outcome, status: str, success_level: int) -> None:
    try:
        if outcome.kind is None:
            _success(outcome, success_level)
        else:
            _failure(outcome, status)
    except BaseException as error:
        logger.caught(error, "The outcome of %s could not be logged or signalled.", outcome.task)


def dispatch_rescued(outcomes: Sequence[Outcome]) -> None:
    """
    Log, signal and count these outcomes, because the workers of the tasks are dead.

    A worker has threads for this. Call this function in a process that has none.
    """
    if not outcomes:
        return
    ended = [(outcome, str(outcome.status)) for outcome in outcomes]
    try:
        dispatch(ended)
    finally:
        alias = queue_alias()
        statistics = Statistics()
        statistics.set_clock(database_now(alias))
        statistics.add(ended)
        statistics.write(alias, statistics.take())


def _success(outcome: Outcome, level: int) -> None:
    task = outcome.task
    if logger.isEnabledFor(level):
        facts = _facts(outcome, Status.SUCCESSFUL)
        logger.log(level, "%s succeeded in %.3f s.", task, outcome.duration, extra=facts)
    if signals.task_succeeded.receivers:
        task.status = Status.SUCCESSFUL
        signals.send(signals.task_succeeded, task=task)


def _failure(outcome: Outcome, status: str) -> None:
    task, error, failure = outcome.task, outcome.exception, outcome.failure
    level, what = _WORDS[Status(status)]
    if status == Status.FAILED and observers.is_observed(outcome, status):
        level = logging.INFO  # Django's receiver of its own signal logs the error.
    ended = outcome.kind.value.replace("_", " ") if outcome.kind else ""
    # Error trackers group a record without an exception by its message before the arguments are
    # filled in. So that text names the kind of outcome. A lost task and one that ran
    # for too long are then two groups.
    message = f"%s {what}; attempt %d of %d {ended}. %s"
    args = (task, task.attempts, task.executions_allowed, failure.summary if failure else "")
    facts = _facts(outcome, status)
    if level == logging.ERROR and error is not None and failure is not None:
        shown, text = printable(error, failure), failure.traceback.rstrip("\n")
        logger.log_exception(level, message, *args, error=shown, text=text, extra=facts)
    else:
        logger.log(level, message, *args, extra=facts)
    task.status = status
    if status in (Status.SCHEDULED, Status.READY) and signals.task_retried.receivers:
        signals.send(signals.task_retried, task=task, error=error)
    if status == Status.FAILED and signals.task_failed.receivers:
        signals.send(signals.task_failed, task=task, error=error)


def _facts(outcome: Outcome, status: str) -> dict[str, object]:
    """
    Return the attributes of the log record.

    Their prefix keeps them apart from the attributes of logging itself and of other packages.
    logging raises an error if two of them have the same name.
    """
    task, failure = outcome.task, outcome.failure
    facts = {
        "bgtask_task_id": task.pk,
        "bgtask_task_name": task.task_name,
        "bgtask_queue": task.queue,
        "bgtask_status": str(status),
        "bgtask_outcome": str(outcome.kind or "succeeded"),
        "bgtask_attempt": task.attempts,
        "bgtask_max_attempts": task.executions_allowed,
        "bgtask_duration": outcome.duration,
    }
    if failure is not None:
        facts["bgtask_error_class"] = failure.error_class
        facts["bgtask_fingerprint"] = failure.fingerprint
    return facts


# Only the final failure is logged as an error, so that mail and Sentry report a task once.
_WORDS = {
    Status.READY: (logging.WARNING, "will be tried again"),
    Status.SCHEDULED: (logging.WARNING, "will be tried again"),
    Status.FAILED: (logging.ERROR, "has failed"),
    Status.CANCELLED: (logging.WARNING, "is cancelled"),
}


class EventDispatcher(Service):
    """
    Log and signal accepted outcomes on a thread of its own.

    Signal receivers are code of the project. They must not delay the next outcome, and they must
    not touch the connection that writes outcomes.
    """

    def __init__(self, success_level: int = logging.DEBUG) -> None:
        self._success_level = success_level
        self._batches: queue.SimpleQueue[Accepted | None] = queue.SimpleQueue()
        self._put = self._dispatched = 0
        # The completer's thread and the maintenance thread both call put().
        self._lock = threading.Lock()
        super().__init__("events")

    def put(self, accepted: Accepted) -> None:
        heard = self._hears_success()
        worth_it = [
            (outcome, status)
            for outcome, status in accepted
            if heard or outcome.kind is not None or observers.is_observed(outcome, status)
        ]
        if worth_it:
            with self._lock:
                self._put += len(worth_it)
            self._batches.put(worth_it)

    def _hears_success(self) -> bool:
        """Return whether a success is logged or signalled. Other outcomes always are."""
        return bool(signals.task_succeeded.receivers) or logger.isEnabledFor(self._success_level)

    @property
    def backlog(self) -> int:
        """Return the number of outcomes that are not dispatched yet."""
        return self._put - self._dispatched

    def stop(self, timeout: float) -> bool:
        """Dispatch what is left; return False if ``timeout`` seconds were not enough."""
        self._batches.put(None)
        self._thread.join(max(timeout, 0.0))
        if self.backlog:
            logger.error("%d outcomes are written, but not logged or signalled.", self.backlog)
        return not self.backlog

    def _run(self) -> None:
        guard = ConnectionGuard()
        while (batch := self._batches.get()) is not None:
            guard.before()
            heard = self._hears_success()
            for pair in batch:
                if heard or pair[0].kind is not None:
                    _dispatch_one(*pair, self._success_level)
                    guard.after("A signal receiver")
                del pair
            # Observers read the rows of a batch together.
            _notify_observers(batch)
            guard.after("A signal receiver")
            self._dispatched += len(batch)
            del batch  # Free the errors, and everything that they refer to.
