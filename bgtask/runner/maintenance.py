"""Chores: conditional, batched, safe to do twice, and done by every process on its own clock."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from django.db import Error, connections

from bgtask import registry
from bgtask.conf import get_settings
from bgtask.models import (
    Hold,
    Outcome,
    Queue,
    QueueHistory,
    QueueStats,
    Task,
    TaskStats,
    Worker,
)
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
    Hold.objects.over().delete()
    Queue.objects.over().delete()
    return unheld + Task.objects.unhold_over()


def prune(may_go_on: Callable[[], bool] = lambda: True) -> dict[str, int]:
    """
    Delete what is older than BGTASK['KEEP'], batch by batch while there is time for it.

    First what is little, and goes whether there is time or not: workers and statistics.
    """
    pruned = dict.fromkeys(("successful", "cancelled", "failed", "workers", "statistics"), 0)
    pruned["workers"] = Worker.objects.prune(KEEP_WORKERS)
    pruned["statistics"] = sum(
        model.objects.prune(KEEP_STATS) for model in (TaskStats, QueueStats, QueueHistory)
    )
    for outcome, age in get_settings().keep.items():
        if age is None:
            continue
        batches = Task.objects.prune(Status[outcome.upper()], age)
        while may_go_on() and (number := next(batches, 0)):
            pruned[outcome] += number
    return pruned


@dataclass(slots=True)
class _Chore:
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
        lease = get_settings().lease
        self._chores = [
            _Chore(lambda: rescue(may_judge(), on_rescued), lease / 4),
            _Chore(unhold, 60.0),
            _Chore(QueueStats.objects.sample, 60.0),
            _Chore(QueueHistory.objects.roll_up, 300.0),
            _Chore(self._prune, 300.0, time.monotonic() + 30.0),
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
            logger.warning("A chore failed, and will be done later: %s", error)
            mend(self._alias)
        except Exception:
            logger.exception("A chore failed.")

    def _prune(self) -> None:
        end = time.monotonic() + PRUNE_TIME

        def may_go_on() -> bool:
            return self._is_idle() and time.monotonic() < end and not self._stopping.is_set()

        prune(may_go_on)
