"""Tell of accepted outcomes: in the log, and to who listens to the signals."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence

from django.db import connections

from bgtask import signals
from bgtask.models.outcome import Outcome
from bgtask.runner.care import Care
from bgtask.status import Status

logger = logging.getLogger("bgtask")

Accepted = Sequence[tuple[Outcome, str]]


def announce(accepted: Accepted) -> None:
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
        signals.announce(signals.task_succeeded, task=task)


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
        signals.announce(signals.task_retried, task=task, error=error)
    if status == Status.FAILED and signals.task_failed.receivers:
        signals.announce(signals.task_failed, task=task, error=error)


# Failing for good is an error once, so that mail and Sentry fire once.
_WORDS = {
    Status.READY: (logging.WARNING, "will be tried again"),
    Status.SCHEDULED: (logging.WARNING, "will be tried again"),
    Status.FAILED: (logging.ERROR, "has failed"),
    Status.CANCELLED: (logging.WARNING, "is cancelled"),
}


def has_anything_to_say(outcome: Outcome) -> bool:
    return (
        outcome.kind is not None
        or bool(signals.task_succeeded.receivers)
        or logger.isEnabledFor(logging.DEBUG)
    )


class Announcer:
    """
    A thread for it, since receivers are user code: they must neither delay the next outcome nor
    touch the connection that writes it.
    """

    def __init__(self) -> None:
        self._batches: queue.SimpleQueue[Accepted | None] = queue.SimpleQueue()
        self._put = self._said = 0
        self._lock = threading.Lock()  # Two threads put: who completes, and who rescues.
        self._thread = threading.Thread(target=self._run, name="bgtask-announcer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def put(self, accepted: Accepted) -> None:
        if worth_it := [pair for pair in accepted if has_anything_to_say(pair[0])]:
            with self._lock:
                self._put += len(worth_it)
            self._batches.put(worth_it)

    @property
    def backlog(self) -> int:
        """Outcomes that are still to be told of."""
        return self._put - self._said

    def stop(self, timeout: float) -> bool:
        """Say what there is to say, but not for ever; False if some was left unsaid."""
        self._batches.put(None)
        self._thread.join(max(timeout, 0.0))
        if self.backlog:
            logger.error("%d outcomes are written, and were not announced.", self.backlog)
        return not self.backlog

    def _run(self) -> None:
        care = Care()
        while (batch := self._batches.get()) is not None:
            care.before()
            for pair in batch:
                try:
                    announce([pair])
                except Exception:  # A logging handler of the project's, for instance.
                    logger.exception("Outcomes could not be announced.")
                care.after("A signal receiver")
                self._said += 1
                del pair
            del batch  # With the errors, and all that their frames hold.
        connections.close_all()
