"""Outcomes → database: many at once, in the background, until each is accepted or refused."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from django.db import DatabaseError, DataError, Error, IntegrityError, connections

from bgtask.errors import plain_failure
from bgtask.models import Outcome, Task
from bgtask.runner.care import mend
from bgtask.runner.watchdog import watched
from bgtask.status import Status

logger = logging.getLogger("bgtask")

BATCH = 100  # Outcomes that are worth a flush …
MOST = 400  # … and those that one takes, where more have come in during the one before.
LINGER = 0.05  # Seconds that the first outcome waits for others.
TRIES = 3  # After so many refusals on a connection that works, the records are to blame.


def flush(outcomes: Sequence[Outcome]) -> dict[int, str]:
    """
    Write them; return the new status by id of those that were accepted.

    Refused ones are looked up, for a flush whose reply was lost may have been accepted, and may
    even have landed after it was given up.
    """
    accepted = Task.objects.finish(outcomes)
    if len(accepted) < len(outcomes):
        refused = [outcome for outcome in outcomes if outcome.task.pk not in accepted]
        accepted |= Task.objects.finished_before(refused)
    return accepted


class Completer:
    """
    A thread and a connection of its own. ``on_done`` is told of each batch: what was accepted,
    with its new status, and what was fenced off.
    """

    def __init__(
        self,
        on_done: Callable[[list[tuple[Outcome, str]], list[Outcome]], None],
        is_idle: Callable[[], bool],
    ) -> None:
        self._alias = Task.objects.all().db
        self._on_done = on_done
        self._is_idle = is_idle
        self._pending: deque[Outcome] = deque()
        self._news = threading.Event()
        self._asleep = False  # Until there is something to write.
        self._closing = False
        self._unwritten: set[int] = set()  # The tasks whose outcomes were given up at the stop.
        self._give_up_at: float | None = None
        self._in_flight = 0
        self._thread = threading.Thread(target=self._run, name="bgtask-completer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def backlog(self) -> int:
        return len(self._pending) + self._in_flight

    def put(self, outcome: Outcome) -> None:
        self._pending.append(outcome)
        if (
            self._asleep or len(self._pending) >= BATCH or self._is_idle()
        ) and not self._news.is_set():
            self._news.set()

    def stop(self, timeout: float) -> bool:
        """Write what there is; False if the database did not take all of it in that time."""
        self._give_up_at = time.monotonic() + max(timeout, 0.0)
        self._closing = True
        self._news.set()
        self._thread.join(max(timeout, 0.0) + 1.0)
        return not self.backlog and not self._unwritten

    def _run(self) -> None:
        while True:
            self._wait()
            batch = [self._pending.popleft() for _ in range(min(len(self._pending), MOST))]
            if batch:
                self._in_flight = len(batch)
                self._complete(batch)
                self._in_flight = 0
                del batch  # With the errors, and all that their frames hold.
            elif self._closing:
                break
        connections.close_all()

    def _wait(self) -> None:
        """Until there is a batch worth writing."""
        self._asleep = True  # Before the look: who appends after it will see that they must wake.
        while not self._pending and not self._closing:
            self._news.wait()
            self._news.clear()
        self._asleep = False
        until = time.monotonic() + LINGER
        while len(self._pending) < BATCH and not self._closing and not self._is_idle():
            left = until - time.monotonic()
            if left <= 0:
                break
            self._news.wait(left)
            self._news.clear()

    def _complete(self, batch: list[Outcome]) -> None:
        statuses = self._persistently(batch)
        accepted = [
            (outcome, statuses[outcome.task.pk]) for outcome in batch if outcome.task.pk in statuses
        ]
        settled = statuses.keys() | self._unwritten
        fenced = [outcome for outcome in batch if outcome.task.pk not in settled]
        try:
            self._on_done(accepted, fenced)
        except Exception:  # The next batch must be written, whatever became of the talk of this.
            _say(
                logging.ERROR,
                "%d outcomes are written, and could not be told of.",
                len(batch),
                exc_info=True,
            )

    def _persistently(self, batch: list[Outcome]) -> dict[int, str]:
        """Wait out an outage; go one by one where the records themselves are refused."""
        tries = 0
        while True:
            try:
                with watched(self._alias):
                    return flush(batch)
            except (DataError, IntegrityError) as error:
                mend(self._alias)
                return self._one_by_one(batch, error)
            except (Error, MemoryError) as error:
                self._mend()
                tries += 1
                if tries >= TRIES and self._is_too_much(batch, error):
                    return self._one_by_one(batch, error)
                if tries == 1 or tries % 10 == 0:
                    _say(
                        logging.WARNING,
                        "%d outcomes could not be written, and are kept: %s",
                        len(batch),
                        str(error) or type(error).__name__,
                    )
                if not self._pause(tries):
                    self._unwritten.update(outcome.task.pk for outcome in batch)
                    return {}
            except Exception as error:  # The driver's own, of text that it cannot encode.
                mend(self._alias)
                return self._one_by_one(batch, error)

    def _one_by_one(self, batch: list[Outcome], error: BaseException) -> dict[int, str]:
        """One bad record must not keep its neighbours; it is written in plain words."""
        if len(batch) > 1:
            statuses: dict[int, str] = {}
            for outcome in batch:
                statuses |= self._persistently([outcome])
            return statuses
        (outcome,) = batch
        if _is_plain(outcome):
            _say(
                logging.ERROR,
                "The outcome of %s is refused by the database, and dropped: %s",
                outcome.task,
                error,
            )
            return {}
        _say(
            logging.ERROR,
            "The database refuses what %s left behind; storing plain words: %s",
            outcome.task,
            error,
        )
        _make_plain(outcome)
        return self._persistently(batch)

    def _is_too_much(self, batch: list[Outcome], error: Exception) -> bool:
        """Is it the records, not the database? That may also be full or read-only."""
        if isinstance(error, MemoryError):
            return len(batch) > 1  # There may be enough for one of them.
        if not isinstance(error, DatabaseError) or (len(batch) == 1 and _is_plain(batch[0])):
            return False
        try:
            with watched(self._alias):
                Task.objects.filter(pk=0).update(priority=0)
        except (Error, MemoryError):
            self._mend()
            return False
        return True

    def _mend(self) -> None:
        with contextlib.suppress(MemoryError):  # Then at the next attempt.
            mend(self._alias)

    def _pause(self, tries: int) -> bool:
        """Wait a little longer each time; False when there is no time left."""
        wait = min(0.1 * 2**tries, 5.0) * random.uniform(0.8, 1.2)  # noqa: S311
        if self._give_up_at is None:
            self._news.clear()
            self._news.wait(wait)
            return True
        left = self._give_up_at - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(wait, left))
        return True


def _say(level: int, message: str, *args: object, exc_info: bool = False) -> None:
    """A handler of the log is the project's; what it raises must not keep outcomes from writing."""
    with contextlib.suppress(Exception):
        logger.log(level, message, *args, exc_info=exc_info)


def _is_plain(outcome: Outcome) -> bool:
    return outcome.return_value is None and (
        outcome.failure is None or outcome.failure.error_class == "bgtask.Unstorable"
    )


def _make_plain(outcome: Outcome) -> None:
    outcome.return_value = None
    outcome.run_at = None
    if outcome.status == Status.SCHEDULED and outcome.delay is None:
        outcome.delay = 0.0
    if outcome.failure is not None:
        outcome.failure = plain_failure(
            "bgtask.Unstorable", "The task failed, and the database refused the text of its error."
        )
