"""Chores: conditional, batched, safe to do twice, and done by every process on its own clock."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from django.db import Error, connections

from bgtask import registry
from bgtask.conf import get_settings
from bgtask.models import QueueHistory, QueuePause, QueueStats, Task, TaskHold, TaskStats, Worker
from bgtask.models.deletion import kept_in_words
from bgtask.models.outcome import Outcome
from bgtask.runner.care import mend
from bgtask.runner.watchdog import watched
from bgtask.status import Status

logger = logging.getLogger("bgtask")

KEEP_STATS = 30 * 86_400.0  # Seconds.
KEEP_WORKERS = 86_400.0
PRUNE_TIME = 2.0  # Seconds at a stretch.


def rescue(may_judge: bool, tell: Callable[[list[Outcome]], object]) -> None:
    """Declare the silent dead, if it is ours to judge, and take back what is not being run."""
    if may_judge and (dead := Worker.objects.silent().declare_dead()):
        logger.warning("%d silent workers were declared dead.", dead)
    Task.objects.rescue("it gave no sign of life for longer than its lease", tell)


def unhold() -> int:
    """Let go what is no longer to be held: names known here, holds and pauses that are over."""
    unheld = Task.objects.unhold_known(registry.names())
    TaskHold.objects.expired().delete()
    QueuePause.objects.expired().delete()
    return unheld + Task.objects.unhold_over()


class Pruner:
    """
    Delete what is older than BGTASK['RETENTION'], and old workers and statistics.

    A row is kept as long as a row of another table must refer to it. The pruner remembers how far
    it came, so that the next run doesn't begin with the tasks it has just kept.
    """

    def __init__(self) -> None:
        self.kept: Counter[str] = Counter()  # In the last run, by the table that refers to them.
        self._after: dict[str, int | None] = {}

    def prune(self, may_go_on: Callable[[], bool] = lambda: True) -> dict[str, int]:
        """
        Delete batch by batch while there is time for it; return how many of each.

        First what is little, and goes whether there is time or not: workers and statistics.
        """
        self.kept.clear()
        pruned = dict.fromkeys(("successful", "cancelled", "failed", "workers", "statistics"), 0)
        pruned["workers"] = Worker.objects.prune(KEEP_WORKERS, kept=self.kept)
        pruned["statistics"] = sum(
            model.objects.prune(KEEP_STATS, kept=self.kept)
            for model in (TaskStats, QueueStats, QueueHistory)
        )
        for outcome, age in get_settings().retention.items():
            if age is None:
                continue
            status = Status[outcome.upper()]
            batches = Task.objects.prune(status, age, after=self._after.get(outcome))
            while may_go_on() and (number := next(batches, None)) is not None:
                pruned[outcome] += number
            self._after[outcome] = batches.after
            self.kept.update(batches.kept)
        return pruned

    def kept_in_words(self) -> list[str]:
        """Return a sentence for each table that keeps rows from being deleted."""
        return kept_in_words(self.kept)


def prune(may_go_on: Callable[[], bool] = lambda: True) -> dict[str, int]:
    """Prune once: see ``Pruner``."""
    return Pruner().prune(may_go_on)


@dataclass(slots=True)
class _Chore:
    name: str
    function: Callable[[], object]
    interval: float
    due: float = 0.0


class Maintenance:
    """A thread and a connection of its own, from which the chores are done."""

    def __init__(
        self,
        *,
        may_judge: Callable[[], bool],
        is_idle: Callable[[], bool],
        on_rescued: Callable[[list[Outcome]], None],
    ) -> None:
        self._alias = Task.objects.all().db
        self._is_idle = is_idle
        self._pruner = Pruner()
        lease = get_settings().lease
        self._chores = [
            _Chore("rescue", lambda: rescue(may_judge(), on_rescued), lease / 4),
            _Chore("unhold", unhold, 60.0),
            _Chore("sample queues", QueueStats.objects.sample, 60.0),
            _Chore("roll up statistics", QueueHistory.objects.roll_up, 300.0),
            _Chore("prune", self._prune, 300.0, time.monotonic() + 30.0),
        ]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bgtask-maintenance", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stopping.is_set():
            for chore in self._chores:
                if chore.due <= time.monotonic() and not self._stopping.is_set():
                    self._do(chore)
            wait = min(chore.due for chore in self._chores) - time.monotonic()
            self._stopping.wait(max(wait, 0.05))
        connections.close_all()

    def _do(self, chore: _Chore) -> None:
        # Give or take a half: processes that started together must not stay in step.
        chore.due = time.monotonic() + chore.interval * random.uniform(0.5, 1.5)  # noqa: S311
        try:
            with watched(self._alias):
                chore.function()
        except Error as error:
            logger.warning("The chore %r failed, and will be done later: %s", chore.name, error)
            mend(self._alias)
        except Exception:
            logger.exception("The chore %r failed.", chore.name)

    def _prune(self) -> None:
        end = time.monotonic() + PRUNE_TIME

        def may_go_on() -> bool:
            return self._is_idle() and time.monotonic() < end and not self._stopping.is_set()

        self._pruner.prune(may_go_on)
        for sentence in self._pruner.kept_in_words():
            logger.warning("%s", sentence)
