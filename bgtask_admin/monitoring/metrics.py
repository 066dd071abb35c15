"""
Export the figures with the client library of Prometheus (the extra ``prometheus``).

Counts of rows are gauges, because pruning deletes rows and a counter must never go down. No
label holds a host, a task or the text of an error, because their number is unlimited. The
number of queues is unlimited too. So a hundred queues have series of their own, and all
other queues are added up as one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

import bgtask
from bgtask import health
from bgtask.health import QueueHealth
from bgtask_admin.monitoring.snapshot import Snapshot

# The label for the queues without series of their own. It is not a valid name of a queue.
OTHERS = "(other)"
_PARAMETER = re.compile(
    r"version=(?:0\.0\.[14]|1\.0\.0)|escaping=(?:allow-utf-8|underscores|dots|values)", re.ASCII
)


def exposition(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """Return the text and its content type. Use OpenMetrics if ``accept`` asks for it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(snapshot))
    encode, content_type = choose_encoder(_without_unknown_parameters(accept))
    return encode(registry), content_type


def _without_unknown_parameters(accept: str) -> str:
    """
    Return the header without parameters that are unknown or invalid.

    The library raises an error for a version that is not a number, and copies some parameters
    into the response.
    """
    types = []
    for one in accept.split(","):
        name, *parameters = (part.strip() for part in one.split(";"))
        types.append(";".join([name, *filter(_PARAMETER.fullmatch, parameters)]))
    return ",".join(types)


def _together(queues: Sequence[QueueHealth]) -> QueueHealth:
    """
    Return one QueueHealth for all these queues, with the sum of each count.

    Each age is the greatest. ``served_by`` is the lowest number of workers of a queue with ready
    tasks, or of any queue if no queue has ready tasks.
    """
    served = [queue.served_by for queue in queues if queue.oldest_ready_age]
    counts = ("ready", "scheduled", "retrying", "running", "held")
    return QueueHealth(
        name=OTHERS,
        paused=any(queue.paused for queue in queues),
        **{count: sum(getattr(queue, count) for queue in queues) for count in counts},
        oldest_ready_age=max(queue.oldest_ready_age for queue in queues),
        max_running_seconds=max(queue.max_running_seconds for queue in queues),
        served_by=min(served or [queue.served_by for queue in queues]),
    )


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
        shown, others = health.select_queues(self.health.queues)
        for queue in (*shown, _together(others)) if others else shown:
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
        ended: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        for name, queue in (
            *((queue.name, queue) for queue in shown),
            *((OTHERS, queue) for queue in others),
        ):
            figures = ended[name, f"{queue.window:g}"]
            figures[0] += queue.finished_window
            figures[1] += queue.failed_window
        for labels, (finished_number, failed_number) in ended.items():
            finished.add_metric(labels, finished_number)
            failed.add_metric(labels, failed_number)
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
        if figures.failed_tasks is not None:
            yield GaugeMetricFamily(
                "bgtask_failed_tasks",
                "Tasks that are FAILED now, of any age and queue, counted up to 10,000.",
                value=figures.failed_tasks,
            )
        if figures.late_schedules is not None:
            yield GaugeMetricFamily(
                "bgtask_late_schedules",
                "Schedules whose next slot no worker has decided in time.",
                value=len(figures.late_schedules),
            )
        yield GaugeMetricFamily(
            "bgtask_status",
            "The verdict by the thresholds of the settings: 0 pass, 1 warn, 2 fail.",
            value=figures.status.rank,
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
