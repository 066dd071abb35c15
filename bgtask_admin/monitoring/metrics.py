"""
The figures for Prometheus, by its own client library (the extra ``prometheus``).

Counts of rows are gauges: pruning deletes rows, and a counter must never go down. No label
holds a host, a task or the text of an error, of which there may be any number.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

import bgtask
from bgtask.health import Level
from bgtask_admin.monitoring.snapshot import Snapshot


def exposition(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """The text, and its content type: OpenMetrics where that is asked for."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(snapshot))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Figures(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.health = snapshot.health

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._of_the_queues()
        yield from self._of_the_whole()

    def _of_the_queues(self) -> Iterator[Metric]:
        tasks = GaugeMetricFamily(
            "bgtask_tasks",
            "Tasks that are not finished; the states add up.",
            labels=["queue", "state"],
        )
        oldest = GaugeMetricFamily(
            "bgtask_queue_oldest_ready_age_seconds",
            "For how long the oldest task has been due that could start now; 0 if there is none.",
            labels=["queue"],
        )
        longest = GaugeMetricFamily(
            "bgtask_queue_max_running_seconds",
            "For how long the longest running task has been running.",
            labels=["queue"],
        )
        paused = GaugeMetricFamily(
            "bgtask_queue_paused", "1 where an operator has paused the queue.", labels=["queue"]
        )
        workers = GaugeMetricFamily(
            "bgtask_queue_workers", "Living workers that serve the queue.", labels=["queue"]
        )
        finished = GaugeMetricFamily(
            "bgtask_finished_recent",
            "Attempts that ended within the window (in seconds).",
            labels=["queue", "window"],
        )
        failed = GaugeMetricFamily(
            "bgtask_failed_recent",
            "Attempts that failed within the window (in seconds), for good or not yet.",
            labels=["queue", "window"],
        )
        for queue in self.health.queues:
            for state, number in (
                ("ready", queue.ready),
                ("scheduled", queue.scheduled - queue.retrying),
                ("retrying", queue.retrying),
                ("running", queue.running),
                ("held", queue.held),
            ):
                tasks.add_metric([queue.name, state], number)
            oldest.add_metric([queue.name], queue.oldest_ready_age)
            longest.add_metric([queue.name], queue.max_running_seconds)
            paused.add_metric([queue.name], queue.paused)
            workers.add_metric([queue.name], queue.served_by)
            window = f"{queue.window:g}"
            finished.add_metric([queue.name, window], queue.finished_window)
            failed.add_metric([queue.name, window], queue.failed_window)
        yield from (tasks, oldest, longest, paused, workers, finished, failed)

    def _of_the_whole(self) -> Iterator[Metric]:
        figures = self.health
        workers = GaugeMetricFamily(
            "bgtask_workers", "Workers that were not declared dead.", labels=["status"]
        )
        for status in ("alive", "stopping", "silent"):
            workers.add_metric([status], getattr(figures.workers, status))
        yield workers
        yield GaugeMetricFamily(
            "bgtask_worker_heartbeat_age_seconds_max",
            "The longest time since the last heartbeat of any of them.",
            value=figures.workers.heartbeat_age_max,
        )
        stuck = GaugeMetricFamily(
            "bgtask_stuck_tasks",
            "Running tasks past their deadline, or with a worker that is silent or dead.",
            labels=["reason"],
        )
        for reason in ("overdue", "silent", "lost"):
            stuck.add_metric([reason], getattr(figures.stuck, reason))
        yield stuck
        yield GaugeMetricFamily(
            "bgtask_status",
            "The verdict by the thresholds of the settings: 0 pass, 1 warn, 2 fail.",
            value=list(Level).index(figures.status),
        )
        yield GaugeMetricFamily(
            "bgtask_scrape_duration_seconds",
            "How long it took to read all this from the database.",
            value=self.snapshot.took,
        )
        yield InfoMetricFamily(
            "bgtask",
            "What this is.",
            value={"version": bgtask.__version__, "database": self.snapshot.database},
        )
