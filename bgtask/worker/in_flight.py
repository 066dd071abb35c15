"""What a worker has in its hands, in memory and in the database: the two must agree."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

from bgtask.context import CurrentTask
from bgtask.models import Task, Worker
from bgtask.models.outcome import Outcome
from bgtask.status import HeldFor

logger = logging.getLogger("bgtask")

_WORDS = {
    HeldFor.TYPE: ("on hold", "Release the task type in the admin to have them run."),
    HeldFor.UNKNOWN: (
        "unknown here",
        "They run once a worker has the code; or cancel them in the admin.",
    ),
}


class InFlightTasks:
    """
    What was claimed and is neither accepted nor given back: waiting, running, or unwritten.

    ``needs_reconciling`` when a reply of the database was lost, or simply at times: then ``reconcile``.
    """

    def __init__(self) -> None:
        self._tasks: dict[int, Task] = {}
        self.needs_reconciling = False
        self.claimed_total = 0  # All in all, but for what was given back.

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def add(self, tasks: Sequence[Task]) -> None:
        self._tasks.update((task.pk, task) for task in tasks)
        self.claimed_total += len(tasks)

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        """They have ended. What was claimed again meanwhile, as a newer attempt, is kept."""
        for outcome in outcomes:
            task = self._tasks.get(outcome.task.pk)
            if task is not None and task.token == outcome.task.token:
                self._tasks.pop(task.pk, None)  # Another thread may have been quicker.

    def release(self, tasks: Sequence[Task]) -> None:
        if tasks:
            self.drop(tasks)  # First: a release that fails is made good by reconciling.
            Task.objects.release(tasks)

    def set_aside(self, tasks: Sequence[Task], held_for: HeldFor) -> None:
        if not tasks:
            return
        why, remedy = _WORDS[held_for]
        names = ", ".join(sorted({task.task_name for task in tasks})[:10])
        logger.warning(
            "%d tasks are held, their names being %s: %s. %s", len(tasks), why, names, remedy
        )
        self.drop(tasks)
        Task.objects.set_aside(tasks, held_for)

    def drop(self, tasks: Iterable[Task]) -> None:
        """They were not started, and are no longer ours."""
        for task in tasks:
            if self._tasks.pop(task.pk, None) is not None:
                self.claimed_total -= 1

    def reconcile(self, worker: Worker, running: Iterable[CurrentTask]) -> None:
        """
        Compare what the database holds for the worker with what is in in_flight.

        What only the database knows is released; what only the worker knows was claimed_total back. To be
        called by the thread that claims, or a claim under way would be claimed_total for a stray.
        """
        held = list(Task.objects.running().filter(locked_by=worker).only("token"))
        strays = [task for task in held if not self._has(task)]
        if strays and (released := Task.objects.release(strays)):
            logger.warning("%d tasks whose claim was not heard of are released.", released)
        self.needs_reconciling = False
        keys = {(task.pk, task.token) for task in held}
        for current in running:
            if (current.id, current.token) not in keys and current.lost_at is None:
                self._lose(current)

    def _has(self, task: Task) -> bool:
        ours = self._tasks.get(task.pk)
        return ours is not None and ours.token == task.token

    def _lose(self, current: CurrentTask) -> None:
        """It still runs, or has ended just now; in either case its outcome is not waited for."""
        current.lost_at = time.monotonic()
        current.cancel_requested = True
        if self._tasks.get(current.id) is current.task:
            self._tasks.pop(current.id, None)
