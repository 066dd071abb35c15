"""
Write outcomes in batches and in the background, until each is accepted or refused.

The module is long because it also decides which outcome of a refused batch is to blame.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from bgtask import clock
from bgtask.db import is_about_data
from bgtask.db.routing import queue_alias
from bgtask.failures import plain_failure
from bgtask.lifecycle.attempts import Outcome
from bgtask.lifecycle.finish import already_finished, finish_attempts
from bgtask.loggers import get_logger
from bgtask.worker.connections import reset_connection
from bgtask.worker.service import Service, growing_pause
from bgtask.worker.watchdog import watched

logger = get_logger(__name__)

FLUSH_BATCH = 100  # Write without delay once so many outcomes are waiting.
# The most outcomes in one flush. More than FLUSH_BATCH may come in during the previous flush.
MAX_FLUSH_BATCH = 400
FLUSH_LINGER_SECONDS = 0.05  # Seconds that the first outcome waits for others.
BATCH_TRIES = 3  # After so many failures of a batch, also try its outcomes one by one.
SINGLE_FAILURES = 3  # The database is away if so many single outcomes fail and none succeeds.
KEPT_RETRY_SECONDS = 5.0  # Between two tries of outcomes that are kept (see ``_keep``).


def flush(outcomes: Sequence[Outcome]) -> dict[int, str]:
    """
    Write the outcomes; return the new status by id of the tasks whose outcome was accepted.

    Look up the refused outcomes. If the reply to an earlier flush was lost, the database may have
    accepted that flush, perhaps even after this process had given it up.
    """
    accepted = finish_attempts(outcomes)
    if len(accepted) < len(outcomes):
        refused = [outcome for outcome in outcomes if outcome.task.id not in accepted]
        accepted |= already_finished(refused)
    return accepted


class Completer(Service):
    """
    Write outcomes on a thread and a connection of its own.

    ``on_done`` is called after each batch with two lists: the accepted outcomes, each with the
    new status of its task, and the outcomes that were fenced off. ``is_idle`` returns whether no
    task runs or waits for a thread. Then there is no other outcome to wait for.
    """

    def __init__(
        self,
        on_done: Callable[[list[tuple[Outcome, str]], list[Outcome]], None],
        is_idle: Callable[[], bool],
    ) -> None:
        self._alias = queue_alias()
        self._on_done = on_done
        self._is_idle = is_idle
        self._pending: deque[Outcome] = deque()
        self._news = threading.Event()
        self._asleep = False  # Whether the thread waits for a first outcome.
        self._closing = False
        self._kept: list[Outcome] = []  # Refused while others were accepted; tried again later.
        self._retry_kept_at = 0.0
        self._unwritten: set[int] = set()  # The tasks whose outcomes were given up at the stop.
        self._give_up_at: float | None = None
        self._in_flight = 0
        super().__init__("completer")

    @property
    def backlog(self) -> int:
        return len(self._pending) + self._in_flight + len(self._kept)

    def put(self, outcome: Outcome) -> None:
        self._pending.append(outcome)
        if (
            self._asleep or len(self._pending) >= FLUSH_BATCH or self._is_idle()
        ) and not self._news.is_set():
            self._news.set()

    def stop(self, timeout: float) -> bool:
        """Write what is left; return False if ``timeout`` seconds were not enough."""
        self._give_up_at = clock.monotonic() + max(timeout, 0.0)
        self._closing = True
        self._news.set()
        self._thread.join(max(timeout, 0.0) + 1.0)
        return not self.backlog and not self._unwritten

    def _run(self) -> None:
        closing_tries = 0
        while True:
            self._wait()
            batch = self._take(MAX_FLUSH_BATCH)
            if batch:
                self._in_flight = len(batch)
                self._complete(batch)
                self._in_flight = 0
                del batch  # Free the errors, and everything that their frames refer to.
            if self._kept and (self._closing or clock.monotonic() >= self._retry_kept_at):
                self._complete_kept()
            if self._closing and not self._pending:
                closing_tries += 1
                if not self._kept or not self._pause(closing_tries):
                    break

    def _take(self, most: int) -> list[Outcome]:
        return [self._pending.popleft() for _ in range(min(len(self._pending), most))]

    def _wait(self) -> None:
        """Wait until there is a batch worth writing."""
        # Set this flag before checking the queue, so that a concurrent put() wakes this thread.
        self._asleep = True
        while not self._pending and not self._closing:
            timeout = self._retry_kept_at - clock.monotonic() if self._kept else None
            if timeout is not None and timeout <= 0:
                self._asleep = False
                return
            self._news.wait(timeout)
            self._news.clear()
        self._asleep = False
        until = clock.monotonic() + FLUSH_LINGER_SECONDS
        while len(self._pending) < FLUSH_BATCH and not self._closing and not self._is_idle():
            left = until - clock.monotonic()
            if left <= 0:
                break
            self._news.wait(left)
            self._news.clear()

    def _complete(self, batch: list[Outcome]) -> None:
        """Write the batch; wait while the database is away, and keep outcomes that it refuses."""
        statuses: dict[int, str] = {}
        left = list(batch)
        tries = refusals = 0
        while left:
            try:
                statuses |= self._flush(left)
                break
            except BaseException as error:  # Even a receiver of connection_created may raise.
                self._reset_connection()
                tries += 1
                refusals = refusals + 1 if is_about_data(error) else 0
                if refusals == 1:
                    continue  # An outage may cause a first refusal, so try the batch once more.
                if not refusals:
                    _log_failure(len(left), tries, error)
                one_by_one = (
                    refusals > 0
                    or tries >= BATCH_TRIES
                    or (isinstance(error, MemoryError) and len(left) > 1)
                )
            if one_by_one:
                written, left, is_away = self._write_one_by_one(left)
                statuses |= written
                if not is_away:
                    self._keep(left)
                    break
            if not self._pause(tries):
                self._unwritten.update(outcome.task.id for outcome in left)
                break
            if tries >= BATCH_TRIES:
                # If a single outcome is refused, only others can show that the database answers.
                more = self._take(MAX_FLUSH_BATCH - len(left))
                batch += more
                left += more
                self._in_flight = len(batch)
        self._report(batch, statuses)

    def _complete_kept(self) -> None:
        """Try the kept outcomes again."""
        batch = self._kept
        statuses, self._kept, _ = self._write_one_by_one(batch)
        self._retry_kept_at = clock.monotonic() + KEPT_RETRY_SECONDS
        self._report(batch, statuses)

    def _keep(self, refused: list[Outcome]) -> None:
        """Keep outcomes in memory that are refused while the database accepts others."""
        if not refused:
            return
        self._kept += refused
        self._retry_kept_at = clock.monotonic() + KEPT_RETRY_SECONDS
        logger.error(
            "The database refuses the outcomes of %d tasks. They are kept and tried again: %s",
            len(refused),
            ", ".join(str(outcome.task) for outcome in refused[:10]),
        )

    def _report(self, batch: list[Outcome], statuses: dict[int, str]) -> None:
        """Tell the runner which outcomes were accepted, and which were fenced off."""
        accepted = [
            (outcome, statuses[outcome.task.id]) for outcome in batch if outcome.task.id in statuses
        ]
        unsettled = self._unwritten | {outcome.task.id for outcome in self._kept}
        settled = statuses.keys() | unsettled
        fenced = [outcome for outcome in batch if outcome.task.id not in settled]
        # A failing callback must not stop later batches from being written.
        with logger.catch("%d outcomes are written, but could not be handled.", len(batch)):
            self._on_done(accepted, fenced)

    def _write_one_by_one(
        self, outcomes: list[Outcome]
    ) -> tuple[dict[int, str], list[Outcome], bool]:
        """
        Write each outcome by itself, so that a refused one does not keep the others.

        Return the new statuses, the outcomes that are left, and whether the database is away.
        """
        statuses: dict[int, str] = {}
        left: list[Outcome] = []
        is_away = True
        # In random order, so that refused outcomes don't come before the others each time.
        for outcome in random.sample(outcomes, len(outcomes)):
            if is_away and len(left) >= SINGLE_FAILURES:
                left.append(outcome)
                continue
            try:
                statuses |= self._write_one(outcome)
                is_away = False
            except BaseException as error:
                left.append(outcome)
                if is_about_data(error):
                    is_away = False
        return statuses, left, is_away

    def _write_one(self, outcome: Outcome) -> dict[int, str]:
        """Write one outcome; if the database refuses its texts, replace them and write again."""
        try:
            return self._flush_twice(outcome)
        except BaseException as error:
            if not is_about_data(error) or _is_plain(outcome):
                raise
            logger.error(
                "The database refuses what %s left behind; storing plain words: %s",
                outcome.task,
                error,
            )
        _make_plain(outcome)
        return self._flush_twice(outcome)

    def _flush_twice(self, outcome: Outcome) -> dict[int, str]:
        """Flush one outcome, and once more if its data was refused."""
        try:
            return self._flush([outcome])
        except BaseException as error:
            self._reset_connection()
            if not is_about_data(error):
                raise
        try:
            return self._flush([outcome])
        except BaseException:
            self._reset_connection()
            raise

    def _flush(self, outcomes: list[Outcome]) -> dict[int, str]:
        with watched(self._alias):
            return flush(outcomes)

    def _reset_connection(self) -> None:
        with contextlib.suppress(MemoryError):  # The next failure resets it.
            reset_connection(self._alias)

    def _pause(self, tries: int) -> bool:
        """Wait, longer after each failure; return False if no time is left until the stop."""
        wait = growing_pause(tries, first=0.2, longest=5.0)
        wait *= random.uniform(0.8, 1.2)  # noqa: S311
        if self._give_up_at is None:
            self._news.clear()
            self._news.wait(wait)
            return True
        left = self._give_up_at - clock.monotonic()
        if left <= 0:
            return False
        time.sleep(min(wait, left))
        return True


def _log_failure(count: int, tries: int, error: BaseException) -> None:
    if tries == 1 or tries % 10 == 0:
        logger.warning(
            "%d outcomes could not be written, and are kept: %s",
            count,
            str(error) or type(error).__name__,
        )


def _is_plain(outcome: Outcome) -> bool:
    return outcome.return_value is None and (
        outcome.failure is None or outcome.failure.error_class == "bgtask.Unstorable"
    )


def _make_plain(outcome: Outcome) -> None:
    """Replace the texts only; the time of a retry was already checked when the task chose it."""
    outcome.return_value = None
    if outcome.failure is not None:
        outcome.failure = plain_failure(
            "bgtask.Unstorable", "The task failed, and the database refused the text of its error."
        )
