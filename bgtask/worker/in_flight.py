"""Keep the in-flight tasks of a worker, and make memory and the database agree on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bgtask import clock
from bgtask.context import CurrentTask
from bgtask.lifecycle.attempts import Outcome
from bgtask.lifecycle.claim import release_claims, set_aside_claims
from bgtask.loggers import get_logger
from bgtask.models import Task, Worker
from bgtask.status import HeldFor

logger = get_logger(__name__)

# A sentence for one task, another for several, and the remedy.
_WORDS = {
    HeldFor.TYPE: (
        "Held %d task whose function is on hold: %s. %s",
        "Held %d tasks whose functions are on hold: %s. %s",
        "Release the task type in the admin to run what is held.",
    ),
    HeldFor.UNKNOWN: (
        "Held %d task whose function is not registered in this worker: %s. %s",
        "Held %d tasks whose functions are not registered in this worker: %s. %s",
        "Workers import the tasks.py of each app. If the function is in another module, import "
        "that module in the ready() of the app's AppConfig. What is held runs once a worker has "
        "the code. You can also cancel it in the admin.",
    ),
}


class InFlightTasks:
    """
    The tasks that the worker has claimed and has neither settled nor released.

    Such a task waits for a thread, runs, or has an outcome that is not yet written.
    ``needs_reconciling`` is set when a reply of the database was lost, and after each heartbeat.
    See ``reconcile``.
    """

    def __init__(self) -> None:
        self._tasks: dict[int, Task] = {}
        self.needs_reconciling = False
        self.claimed_total = 0  # Since the start, without the tasks that were dropped.

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def add(self, tasks: Sequence[Task]) -> None:
        self._tasks.update((task.id, task) for task in tasks)
        self.claimed_total += len(tasks)

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        """
        Remove the tasks of these outcomes, whose attempts have ended.

        A task that was claimed again meanwhile has a newer token, and stays in flight.
        """
        for outcome in outcomes:
            task = self._tasks.get(outcome.task.id)
            if task is not None and task.token == outcome.task.token:
                self._tasks.pop(task.id, None)  # Another thread may have removed it.

    def release(self, tasks: Sequence[Task]) -> None:
        if tasks:
            self.drop(tasks)  # Drop first: if the release fails, reconciling repeats it.
            release_claims(tasks)

    def set_aside(self, tasks: Sequence[Task], held_for: HeldFor) -> None:
        if not tasks:
            return
        one, several, remedy = _WORDS[held_for]
        names = ", ".join(sorted({task.task_name for task in tasks})[:10])
        logger.warning(one if len(tasks) == 1 else several, len(tasks), names, remedy)
        self.drop(tasks)
        set_aside_claims(tasks, held_for)

    def drop(self, tasks: Iterable[Task]) -> None:
        """Remove these unstarted tasks, which this worker no longer holds."""
        for task in tasks:
            if self._tasks.pop(task.id, None) is not None:
                self.claimed_total -= 1

    def reconcile(self, worker: Worker, running: Iterable[CurrentTask]) -> None:
        """
        Compare the tasks that the database holds for the worker with those in memory.

        Release tasks that only the database knows. Mark running tasks as lost if the database no
        longer holds them for the worker: they were rescued or cancelled. Call this from the thread
        that claims. Otherwise a claim that is under way would be released as well.
        """
        held = list(Task.objects.running().filter(locked_by=worker).only("token"))
        strays = [task for task in held if not self._has(task)]
        if strays and (released := release_claims(strays)):
            logger.warning(
                "Released %d %s claimed for this worker without its knowledge.",
                released,
                "task that was" if released == 1 else "tasks that were",
            )
        self.needs_reconciling = False
        keys = {(task.id, task.token) for task in held}
        for current in running:
            if (current.id, current.token) not in keys and current.lost_at is None:
                self._lose(current)

    def _has(self, task: Task) -> bool:
        ours = self._tasks.get(task.id)
        return ours is not None and ours.token == task.token

    def _lose(self, current: CurrentTask) -> None:
        """
        Mark a running task as lost, and ask it to stop.

        The task still runs, or has ended just now. In both cases the worker no longer waits for
        its outcome.
        """
        current.lost_at = clock.monotonic()
        current.cancel_requested = True
        if self._tasks.get(current.id) is current.task:
            self._tasks.pop(current.id, None)
