"""The threads that run tasks, and the queue of tasks that wait for a thread."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from django.db import connections

from bgtask import clock
from bgtask.conf import get_settings
from bgtask.context import CurrentTask
from bgtask.failures import clear_frames
from bgtask.lifecycle.attempts import Outcome
from bgtask.loggers import get_logger
from bgtask.models import Task
from bgtask.worker.connections import ConnectionGuard
from bgtask.worker.executor import execute

logger = get_logger(__name__)

PREFETCH_SECONDS = 0.1  # The worker claims ahead what its threads can start in this time.
MAX_PREFETCHED_TASKS = 800  # The most tasks that are claimed ahead.
SMOOTHING_FACTOR = 0.02
START_RETRY_SECONDS = 0.01  # Seconds between two calls of may_start().


class Pool:
    """
    A fixed number of threads, and a queue in front of them.

    ``may_start`` is called before each start. The thread that ran a task calls ``on_end`` with its
    outcome. ``on_hungry`` is called when the pool wants more tasks.
    """

    def __init__(
        self,
        threads: int,
        *,
        may_start: Callable[[], bool],
        on_end: Callable[[Outcome], None],
        on_hungry: Callable[[], None],
    ) -> None:
        self.threads = threads
        self._may_start = may_start
        self._on_end = on_end
        self._on_hungry = on_hungry
        self._waiting: deque[Task] = deque()
        self._running: dict[int, CurrentTask] = {}
        self._claimed_at = 0.0
        self._work = threading.Condition()
        self._closed = False
        self._low = 0
        self._asked = False
        self._mean: float | None = None  # Seconds, a moving average of the durations.
        self._workers = [
            threading.Thread(target=self._run, name=f"bgtask-{number}", daemon=True)
            for number in range(1, threads + 1)
        ]

    def start(self) -> None:
        for thread in self._workers:
            thread.start()

    def is_alive(self) -> bool:
        return all(thread.is_alive() for thread in self._workers)

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._running

    def running(self) -> list[CurrentTask]:
        return list(self._running.values())

    def wanted(self) -> int:
        """
        Return how many more tasks to claim.

        The pool wants as many tasks as its threads can start within PREFETCH_SECONDS seconds.
        Return 0 while more than half of them are waiting, so that claims are few and full.
        """
        self._asked = False
        waiting = len(self._waiting)
        if self._mean is None or self._mean > PREFETCH_SECONDS:
            return max(self.threads - waiting - len(self._running), 0)
        ahead = min(
            max(int(self.threads * PREFETCH_SECONDS / max(self._mean, 1e-6)), self.threads),
            MAX_PREFETCHED_TASKS,
        )
        self._low = ahead // 2
        if waiting > self._low:
            return 0
        return max(ahead - waiting, self.threads - waiting - len(self._running))

    def submit(self, tasks: Iterable[Task]) -> None:
        self._claimed_at = clock.monotonic()
        self._waiting.extend(tasks)
        with self._work:
            self._work.notify_all()

    def withdraw(self, keep: Callable[[Task], bool] | None = None) -> list[Task]:
        """
        Remove the unstarted tasks from the queue of the pool, and return them.

        With ``keep``, leave the tasks for which it returns True.
        """
        withdrawn: list[Task] = []
        kept: list[Task] = []
        while True:
            try:
                task = self._waiting.popleft()
            except IndexError:
                break
            (kept if keep is not None and keep(task) else withdrawn).append(task)
        self._waiting.extend(kept)
        return withdrawn

    def waiting_since(self) -> float | None:
        """Return the time of the last claim, or None if no task waits for a thread."""
        return self._claimed_at if self._waiting else None

    @property
    def stuck(self) -> int:
        """
        Return the number of stuck threads.

        A stuck thread still runs a task that was rescued from it more than GRACE_PERIOD ago.
        """
        late = clock.monotonic() - get_settings().grace_period
        return sum(
            current.lost_at is not None and current.lost_at < late for current in self.running()
        )

    def ask_to_stop(self) -> None:
        """Tell running tasks that their worker is about to stop."""
        for current in self.running():
            current.stop_requested = True

    def close(self, deadline: float) -> bool:
        """
        Wait for running tasks; return False if one is still running at the deadline.

        Don't wait for tasks that were rescued from this worker. They may never end, and their
        outcomes would be refused.
        """
        self._closed = True
        with self._work:
            self._work.notify_all()
        for thread in self._workers:
            while thread.is_alive() and not self._runs_without_effect(thread):
                left = deadline - clock.monotonic()
                if left <= 0:
                    return False
                thread.join(min(left, 0.2))
        return True

    def _runs_without_effect(self, thread: threading.Thread) -> bool:
        current = self._running.get(thread.ident or 0)
        return current is not None and current.lost_at is not None

    def _run(self) -> None:
        guard, me, process = ConnectionGuard(), threading.get_ident(), os.getpid()
        while (task := self._next()) is not None:
            current = CurrentTask(task)
            self._running[me] = current
            guard.before()
            outcome = execute(task, current)
            if outcome.exception is not None:
                # The error waits for its outcome to be written, and then for its log line and
                # signal. Until then, it must not keep what the task held. And no log handler or
                # error tracker gets the parameters and secrets that local variables hold.
                clear_frames(outcome.exception)
            if os.getpid() != process:
                os._exit(0)  # The task forked, and this is the child. The parent has the outcome.
            guard.after(task)
            del self._running[me]
            self.learn(outcome.duration)
            self._on_end(outcome)
            del outcome  # An idle thread must not keep the error of its last task.
            if not self._asked and len(self._waiting) <= self._low:
                self._asked = True
                self._on_hungry()
        connections.close_all()

    def _next(self) -> Task | None:
        while True:
            if self._closed:
                return None
            if self._waiting and not self._may_start():
                time.sleep(START_RETRY_SECONDS)
                continue
            try:
                return self._waiting.popleft()
            except IndexError:
                with self._work:
                    if not self._waiting and not self._closed:
                        self._work.wait()

    def learn(self, duration: float) -> None:
        """
        Update the mean duration: a task took so many seconds, or has run for so long.

        A slow task changes the mean at once, so that no tasks are claimed ahead to wait behind it.
        """
        mean = self._mean
        if duration > PREFETCH_SECONDS:
            self._mean = 2 * PREFETCH_SECONDS
        elif mean is None:
            self._mean = duration
        else:
            self._mean = mean + SMOOTHING_FACTOR * (duration - mean)
