"""A worker's sign of life, and how long it may trust itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from django.db import Error, connections

from bgtask.conf import get_settings
from bgtask.dialects import dialect_of
from bgtask.models import Task, Worker
from bgtask.runner.care import mend
from bgtask.runner.statistics import Statistics
from bgtask.runner.watchdog import watched

logger = logging.getLogger("bgtask")

MARGIN = 0.25  # Of the lease: that much before its end the worker starts nothing any more.


class Heartbeat:
    """
    Beats on a thread and a connection of its own, so that nothing a task does delays it.

    ``pulse`` is called with the worker's id before each beat, whether the database answers or
    not: a supervisor takes it for a sign that this process does not hang. Statistics travel with
    the beat. ``on_beat`` is called after it with the ids of the tasks in hand whose cancel was
    requested.
    """

    def __init__(
        self,
        worker: Worker,
        statistics: Statistics,
        registered: float,
        *,
        holds: Callable[[], bool],
        stuck: Callable[[], int],
        on_beat: Callable[[set[int]], None],
        pulse: Callable[[int], None] = lambda worker_id: None,
    ) -> None:
        self.worker = worker
        self.declared_dead = False
        self._statistics = statistics
        self._holds = holds
        self._stuck = stuck
        self._pulse = pulse
        self._on_beat = on_beat
        self._alias = Worker.objects.all().db
        settings = get_settings()
        self._lease, self._interval = settings.lease, settings.heartbeat_interval
        self._trusted_until = registered + self._lease * (1 - MARGIN)
        self._beating_since = registered
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bgtask-heartbeat", daemon=True)

    def trusted(self) -> bool:
        """May this worker still start what it claimed, by the most cautious reckoning?"""
        return time.monotonic() < self._trusted_until

    def steady(self) -> bool:
        """
        Have the beats succeeded for two intervals?

        After an outage the living are to speak before anybody declares them dead.
        """
        return self.trusted() and time.monotonic() > self._beating_since + 2 * self._interval

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        """It ends by itself only where the worker was declared dead."""
        return self._thread.is_alive() or self.declared_dead

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def beat(self) -> None:
        """Once, on the caller's connection; raises a database error."""
        started = time.monotonic()
        connection = connections[self._alias]
        figures = self._statistics.take()
        try:
            if figures:
                with dialect_of(connection).transaction(connection):
                    alive = self.worker.beat(self._stuck())
                    self._statistics.write(self._alias, figures)
            else:
                alive = self.worker.beat(self._stuck())
        except BaseException:
            self._statistics.give_back(figures)
            raise
        if not alive:
            self._trusted_until = 0.0
            self.declared_dead = True
            return
        if started > self._trusted_until:
            self._beating_since = started  # It was silent for too long to judge others.
        self._trusted_until = started + self._lease * (1 - MARGIN)

    def _run(self) -> None:
        wait, failures = self._interval, 0
        self._pulse(self.worker.pk)
        while not self._stopping.wait(wait):
            self._pulse(self.worker.pk)
            if self.declared_dead:
                return
            try:
                with watched(self._alias):
                    self.beat()
                    cancelled = self._cancel_requests()
            except Error as error:
                failures += 1
                if failures in (1, 10) or failures % 100 == 0:  # An outage may be a long one.
                    logger.warning("The heartbeat of %s failed: %s", self.worker, error)
                mend(self._alias)
                wait = min(1.0, self._interval)
            except Exception:
                logger.exception("The heartbeat of %s failed.", self.worker)
                wait = min(1.0, self._interval)
            else:
                self._on_beat(cancelled)
                wait, failures = self._interval, 0
        connections.close_all()

    def _cancel_requests(self) -> set[int]:
        if not self._holds():
            return set()
        held = Task.objects.filter(locked_by=self.worker, cancel_requested=True)
        return set(held.values_list("pk", flat=True))
