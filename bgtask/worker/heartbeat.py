"""Renew a worker's lease, and compute for how long the worker may rely on it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from django.db import Error, connections

from bgtask import clock
from bgtask.conf import get_settings
from bgtask.db import operations_for
from bgtask.loggers import get_logger, is_worth_logging
from bgtask.models import Task, Worker
from bgtask.worker.connections import reset_connection
from bgtask.worker.service import Service
from bgtask.worker.statistics import Statistics
from bgtask.worker.watchdog import watched

logger = get_logger(__name__)

# Share of the lease. In this last part of the lease, the worker starts no task.
LEASE_MARGIN_SHARE = 0.25


class Heartbeat(Service):
    """
    Send heartbeats on a thread and a connection of its own, so that no task can delay them.

    ``pulse`` is called with the worker's id before each heartbeat, whether the database answers or
    not. It shows a supervisor that this process does not hang. Each heartbeat also writes the
    statistics. ``on_beat`` is called after it, with the ids of the in-flight tasks whose cancel
    was requested. ``holds`` returns whether the worker has in-flight tasks.
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
        self._trusted_until = registered + self._lease * (1 - LEASE_MARGIN_SHARE)
        self._beating_since = registered
        self._failures = 0  # In a row.
        self._stopping = threading.Event()
        super().__init__("heartbeat")

    def trusted(self) -> bool:
        """Return whether this worker may still start tasks, by the most cautious estimate."""
        return clock.monotonic() < self._trusted_until

    def steady(self) -> bool:
        """
        Return whether the heartbeats have succeeded for two intervals.

        After an outage, all living workers must get the time to send a heartbeat before one of
        them is declared dead.
        """
        return self.trusted() and clock.monotonic() > self._beating_since + 2 * self._interval

    def is_alive(self) -> bool:
        """Return whether the thread runs, or ended because the worker was declared dead."""
        return self._thread.is_alive() or self.declared_dead

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def beat(self) -> None:
        """Send one heartbeat on the caller's connection; raise a database error if it fails."""
        started = clock.monotonic()
        connection = connections[self._alias]
        figures = self._statistics.take()
        try:
            if figures:
                with operations_for(connection).transaction(connection):
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
            # This worker was silent for too long to judge others yet: see ``steady``.
            self._beating_since = started
        self._trusted_until = started + self._lease * (1 - LEASE_MARGIN_SHARE)

    def _run(self) -> None:
        wait = self._interval
        self._pulse(self.worker.pk)
        while not self._stopping.wait(wait):
            self._pulse(self.worker.pk)
            if self.declared_dead:
                return
            wait = self._interval if self._try_to_beat() else min(1.0, self._interval)

    def _try_to_beat(self) -> bool:
        """Send one heartbeat, and return whether it succeeded. Log a failure, whatever it is."""
        with logger.catch("The heartbeat of %s failed.", self.worker):
            try:
                with watched(self._alias):
                    self.beat()
                    cancelled = self._cancel_requests()
            except Error as error:
                self._failures += 1
                if is_worth_logging(self._failures):
                    logger.warning("The heartbeat of %s failed: %s", self.worker, error)
                reset_connection(self._alias)
            else:
                self._failures = 0
                self._on_beat(cancelled)
                return True
        return False

    def _cancel_requests(self) -> set[int]:
        if not self._holds():
            return set()
        held = Task.objects.filter(locked_by=self.worker, cancel_requested=True)
        return set(held.values_list("pk", flat=True))
