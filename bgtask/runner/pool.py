"""Threads that run tasks, and what waits for them."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from django.db import connections

from bgtask.conf import get_settings
from bgtask.context import CurrentTask
from bgtask.models import Task
from bgtask.models.outcome import Outcome
from bgtask.runner.care import Care
from bgtask.runner.execution import execute

logger = logging.getLogger("bgtask")

AHEAD = 0.1  # Seconds of work that are claimed ahead.
MOST = 800  # Tasks that are claimed ahead at the most.
SMOOTHING = 0.02
RELUCTANCE = 0.01  # Seconds between two questions whether something may be started.


class Pool:
    """
    A fixed number of threads, and a queue in front of them.

    ``may_start`` is asked before each start. ``on_end`` gets each outcome, from the thread that
    ran it; ``on_hungry`` is called when more work is wanted.
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
        self._mean: float | None = None  # Seconds of a run, of late.
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
        How many more to claim: what the threads can start within AHEAD seconds.

        Zero while there is still half of that, so that claims are few and full.
        """
        self._asked = False
        waiting = len(self._waiting)
        if self._mean is None or self._mean > AHEAD:
            return max(self.threads - waiting - len(self._running), 0)
        ahead = min(max(int(self.threads * AHEAD / max(self._mean, 1e-6)), self.threads), MOST)
        self._low = ahead // 2
        if waiting > self._low:
            return 0
        return max(ahead - waiting, self.threads - waiting - len(self._running))

    def submit(self, tasks: Iterable[Task]) -> None:
        self._claimed_at = time.monotonic()
        self._waiting.extend(tasks)
        with self._work:
            self._work.notify_all()

    def withdraw(self, keep: Callable[[Task], bool] | None = None) -> list[Task]:
        """Take back what has not been started, or what of it is not to be kept."""
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
        """The last claim, while some of it has not been started."""
        return self._claimed_at if self._waiting else None

    @property
    def stuck(self) -> int:
        """Threads that have not ended, for all of GRACE_PERIOD, what was taken back from them."""
        late = time.monotonic() - get_settings().grace_period
        return sum(
            current.taken_back_at is not None and current.taken_back_at < late
            for current in self.running()
        )

    def ask_to_stop(self) -> None:
        """Tell running tasks that their worker is about to stop."""
        for current in self.running():
            current.stop_requested = True

    def close(self, deadline: float) -> bool:
        """
        Wait for what runs; False if something still does at that time.

        What was taken back is not waited for: it may never end, and counts for nothing.
        """
        self._closed = True
        with self._work:
            self._work.notify_all()
        for thread in self._workers:
            while thread.is_alive() and not self._runs_in_vain(thread):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                thread.join(min(left, 0.2))
        return True

    def _runs_in_vain(self, thread: threading.Thread) -> bool:
        current = self._running.get(thread.ident or 0)
        return current is not None and current.taken_back_at is not None

    def _run(self) -> None:
        care, me, process = Care(), threading.get_ident(), os.getpid()
        while (task := self._next()) is not None:
            current = CurrentTask(task)
            self._running[me] = current
            care.before()
            outcome = execute(task, current)
            if os.getpid() != process:
                os._exit(0)  # The task forked, and this is the child: the parent tells its end.
            care.after(task)
            del self._running[me]
            self.learn(outcome.duration)
            self._on_end(outcome)
            del outcome  # Or an idle thread keeps alive all that the task had when it failed.
            if not self._asked and len(self._waiting) <= self._low:
                self._asked = True
                self._on_hungry()
        connections.close_all()

    def _next(self) -> Task | None:
        while True:
            if self._closed:
                return None
            if self._waiting and not self._may_start():
                time.sleep(RELUCTANCE)
                continue
            try:
                return self._waiting.popleft()
            except IndexError:
                with self._work:
                    if not self._waiting and not self._closed:
                        self._work.wait()

    def learn(self, duration: float) -> None:
        """
        A task took so long, or takes longer still.

        Slow ones count at once, so that nothing is claimed ahead behind them.
        """
        mean = self._mean
        if duration > AHEAD:
            self._mean = 2 * AHEAD
        elif mean is None:
            self._mean = duration
        else:
            self._mean = mean + SMOOTHING * (duration - mean)
