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


class Hand:
    """
    What was claimed and is neither accepted nor given back: waiting, running, or unwritten.

    ``doubtful`` when a reply of the database was lost, or simply at times: then ``reconcile``.
    """

    def __init__(self) -> None:
        self._tasks: dict[int, Task] = {}
        self.doubtful = False
        self.taken = 0  # All in all, but for what was given back.

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def take(self, tasks: Sequence[Task]) -> None:
        self._tasks.update((task.pk, task) for task in tasks)
        self.taken += len(tasks)

    def put_down(self, outcomes: Iterable[Outcome]) -> None:
        """They have ended. What was claimed again meanwhile, as a newer attempt, is kept."""
        for outcome in outcomes:
            task = self._tasks.get(outcome.task.pk)
            if task is not None and task.token == outcome.task.token:
                self._tasks.pop(task.pk, None)  # Another thread may have been quicker.

    def release(self, tasks: Sequence[Task]) -> None:
        if tasks:
            self.forget(tasks)  # First: a release that fails is made good by reconciling.
            Task.objects.release(tasks)

    def park(self, tasks: Sequence[Task], held_for: HeldFor) -> None:
        if not tasks:
            return
        why, remedy = _WORDS[held_for]
        names = ", ".join(sorted({task.task_name for task in tasks})[:10])
        logger.warning(
            "%d tasks are held, their names being %s: %s. %s", len(tasks), why, names, remedy
        )
        self.forget(tasks)
        Task.objects.park(tasks, held_for)

    def forget(self, tasks: Iterable[Task]) -> None:
        """They were not started, and are no longer ours."""
        for task in tasks:
            if self._tasks.pop(task.pk, None) is not None:
                self.taken -= 1

    def reconcile(self, worker: Worker, running: Iterable[CurrentTask]) -> None:
        """
        Compare what the database holds for the worker with what is in hand.

        What only the database knows is released; what only the worker knows was taken back. To be
        called by the thread that claims, or a claim under way would be taken for a stray.
        """
        held = list(Task.objects.running().filter(locked_by=worker).only("token"))
        strays = [task for task in held if not self._has(task)]
        if strays and (released := Task.objects.release(strays)):
            logger.warning("%d tasks whose claim was not heard of are released.", released)
        self.doubtful = False
        keys = {(task.pk, task.token) for task in held}
        for current in running:
            if (current.id, current.token) not in keys and current.taken_back_at is None:
                self._lose(current)

    def _has(self, task: Task) -> bool:
        ours = self._tasks.get(task.pk)
        return ours is not None and ours.token == task.token

    def _lose(self, current: CurrentTask) -> None:
        """It still runs, or has ended just now; in either case its outcome is not waited for."""
        current.taken_back_at = time.monotonic()
        current.cancel_requested = True
        if self._tasks.get(current.id) is current.task:
            self._tasks.pop(current.id, None)
