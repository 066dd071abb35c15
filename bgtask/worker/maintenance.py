"""
Do the periodic jobs. Each job is conditional, batched and safe to do twice.

Every worker does all of them, on its own clock.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from django.db import Error

from bgtask import clock, registry
from bgtask.conf import get_settings
from bgtask.db.routing import queue_alias
from bgtask.lifecycle.attempts import Outcome
from bgtask.lifecycle.promote import unhold_expired, unhold_known
from bgtask.lifecycle.rescue import rescue_tasks
from bgtask.lifecycle.retention import Pruning
from bgtask.loggers import get_logger
from bgtask.models import QueueHistory, QueuePause, QueueStats, TaskHold, TaskStats, Worker
from bgtask.models.deletion import kept_in_words
from bgtask.schedules import declaring, retention
from bgtask.schedules.fire import fire_due, seconds_to_next
from bgtask.status import Status
from bgtask.worker.connections import reset_connection
from bgtask.worker.service import Service
from bgtask.worker.watchdog import watched

logger = get_logger(__name__)

STATS_RETENTION_SECONDS = 30 * 86_400.0
WORKER_RETENTION_SECONDS = 86_400.0
MAX_PRUNE_SECONDS = 2.0  # For one run of the job.
DECLARE_SECONDS = 600.0
# How long a new schedule, or a nearer slot, may stay unnoticed.
MAX_FIRE_SECONDS = 10.0


def rescue(may_judge: bool, on_rescued: Callable[[list[Outcome]], object]) -> None:
    """Declare silent workers dead if ``may_judge`` is true, then rescue tasks."""
    if may_judge and (dead := Worker.objects.silent().declare_dead()):
        logger.warning("%d silent workers were declared dead.", dead)
    rescue_tasks(reason="it sent no heartbeat for longer than its lease", on_rescued=on_rescued)


def unhold() -> int:
    """
    Unhold tasks whose name is known here or whose hold is over; return how many.

    Also delete the holds and pauses that are over.
    """
    unheld = unhold_known(registry.knows)
    TaskHold.objects.expired().delete()
    QueuePause.objects.expired().delete()
    return unheld + unhold_expired()


class Pruner:
    """
    Delete finished tasks that are older than BGTASK['RETENTION'], old workers and old statistics.

    A row is kept as long as a row of another table must refer to it. The pruner remembers the last
    task that it kept, so that the next run doesn't begin with the same tasks.
    """

    def __init__(self) -> None:
        # Rows that the last run kept, by the table that refers to them.
        self.kept: Counter[str] = Counter()
        self._after: dict[str, int | None] = {}
        self._slots_after = 0

    def prune(self, may_go_on: Callable[[], bool] = lambda: True) -> dict[str, int]:
        """
        Delete batch by batch while ``may_go_on`` returns True; return how many rows of each kind.

        Old workers and statistics are few. They are deleted first, whatever ``may_go_on`` returns.
        """
        self.kept.clear()
        kinds = ("successful", "cancelled", "failed", "workers", "statistics", "slots")
        pruned = dict.fromkeys(kinds, 0)
        pruned["workers"] = Worker.objects.prune(WORKER_RETENTION_SECONDS, kept=self.kept)
        pruned["statistics"] = sum(
            model.objects.prune(STATS_RETENTION_SECONDS, kept=self.kept)
            for model in (TaskStats, QueueStats, QueueHistory)
        )
        for outcome, age in get_settings().retention.items():
            if age is None:
                continue
            status = Status[outcome.upper()]
            batches = Pruning(status, age, after=self._after.get(outcome))
            while may_go_on() and (number := next(batches, None)) is not None:
                pruned[outcome] += number
            self._after[outcome] = batches.after
            self.kept.update(batches.kept)
        pruned["slots"] = self._prune_slots(may_go_on)
        return pruned

    def _prune_slots(self, may_go_on: Callable[[], bool]) -> int:
        """Delete the decisions that are older than the successful tasks that are kept."""
        age = get_settings().retention["successful"]
        number = 0
        while age is not None and may_go_on():
            deleted, self._slots_after = retention.prune_slots(age, self._slots_after)
            number += deleted
            if not self._slots_after:
                break
        return number

    def kept_in_words(self) -> list[str]:
        """Return a sentence for each table that keeps rows from being deleted."""
        return kept_in_words(self.kept)


def prune(may_go_on: Callable[[], bool] = lambda: True) -> dict[str, int]:
    """Prune once: see ``Pruner``."""
    return Pruner().prune(may_go_on)


@dataclass(slots=True)
class _PeriodicJob:
    name: str
    function: Callable[[], object]
    interval: float
    due: float = 0.0


class Maintenance(Service):
    """Do the periodic jobs on a thread and a connection of its own."""

    def __init__(
        self,
        *,
        may_judge: Callable[[], bool],
        is_idle: Callable[[], bool],
        on_rescued: Callable[[list[Outcome]], None],
        label: Callable[[], str] = str,
    ) -> None:
        self._label = label
        self._has_declared = False
        self._alias = queue_alias()
        self._is_idle = is_idle
        self._pruner = Pruner()
        lease = get_settings().lease
        self._chores = [
            _PeriodicJob("declare schedules", self._declare, DECLARE_SECONDS),
            _PeriodicJob("fire schedules", self._fire, MAX_FIRE_SECONDS),
            _PeriodicJob("rescue", lambda: rescue(may_judge(), on_rescued), lease / 4),
            _PeriodicJob("unhold", unhold, 60.0),
            _PeriodicJob("sample queues", QueueStats.objects.sample, 60.0),
            _PeriodicJob("roll up statistics", QueueHistory.objects.roll_up, 300.0),
            _PeriodicJob("prune", self._prune, 300.0, clock.monotonic() + 30.0),
        ]
        self._stopping = threading.Event()
        super().__init__("maintenance")

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stopping.is_set():
            for chore in self._chores:
                if chore.due <= clock.monotonic() and not self._stopping.is_set():
                    self._do(chore)
            wait = min(chore.due for chore in self._chores) - clock.monotonic()
            self._stopping.wait(max(wait, 0.05))

    def _do(self, chore: _PeriodicJob) -> None:
        # Vary the interval by up to a half. Workers that started together must not stay in step.
        chore.due = clock.monotonic() + chore.interval * random.uniform(0.5, 1.5)  # noqa: S311
        with logger.catch("The chore %r failed.", chore.name):
            try:
                with watched(self._alias):
                    wait = chore.function()
                if isinstance(wait, float):  # The job knows when it has to be done again.
                    chore.due = clock.monotonic() + wait
            except Error as error:
                logger.warning("The chore %r failed, and will be done later: %s", chore.name, error)
                reset_connection(self._alias)

    def _declare(self) -> None:
        """Store the schedules of the code once, and say from time to time that they are there."""
        if self._has_declared:
            declaring.refresh()
        else:
            declaring.declare()
            self._has_declared = True
        declaring.retire()
        declaring.recompute_next_slots()

    def _fire(self) -> float:
        """Decide the slots that are due, and return the seconds until the next one."""
        following = seconds_to_next()
        if following is not None and following <= 0:
            fire_due(self._label())
            following = seconds_to_next(from_now=True)
        if following is None:
            return MAX_FIRE_SECONDS
        # Many workers wait for the same slot, and only one of them is needed.
        return min(following + random.uniform(0, 0.2), MAX_FIRE_SECONDS)  # noqa: S311

    def _prune(self) -> None:
        end = clock.monotonic() + MAX_PRUNE_SECONDS

        def may_go_on() -> bool:
            return self._is_idle() and clock.monotonic() < end and not self._stopping.is_set()

        self._pruner.prune(may_go_on)
        for sentence in self._pruner.kept_in_words():
            logger.warning("%s", sentence)
