"""Convert the figures to plain data for JSON. Times are in UTC, ages in seconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.db import connections
from django.utils import timezone

from bgtask.db.routing import queue_alias
from bgtask.health.ranking import select_queues
from bgtask.health.types import Health, QueueHealth, Reason, Stuck

Document = dict[str, Any]


def as_document(health: Health, version: str) -> Document:
    """
    Return the figures and the verdict; docs/monitoring/stats.schema.json describes them.

    Totals and verdict cover all queues, even if not every queue is listed.
    """
    shown, omitted = select_queues(health.queues)
    return {
        "status": health.status.value,
        "sentence": health.sentence,
        "generated_at": as_utc(health.generated_at),
        "window_seconds": health.window,
        "version": version,
        "database": database(),
        "totals": {
            **{count: health.total(count) for count in _COUNTS},
            "oldest_ready_age_seconds": _rounded(health.oldest_ready_age),
            "max_running_seconds": _rounded(health.max_running_seconds),
            "failed_tasks": health.failed_tasks,
            "failed_tasks_at_least": health.failed_tasks_at_least,
            "late_schedules": None if health.late_schedules is None else len(health.late_schedules),
            "finished_window": health.total("finished_window"),
            "failed_window": health.total("failed_window"),
            "throughput_per_minute": _rounded(health.throughput_per_minute),
        },
        "workers": {
            "alive": health.workers.alive,
            "stopping": health.workers.stopping,
            "silent": health.workers.silent,
            "last_heartbeat_age_seconds": _rounded(health.workers.heartbeat_age_max),
            "threads": health.workers.threads,
            "busy": health.workers.busy,
        },
        "stuck": _stuck(health.stuck),
        "queues": [_queue(queue) for queue in shown],
        "queues_omitted": len(omitted),
        "reasons": [_reason(reason) for reason in health.reasons[:MAX_REASONS]],
        "reasons_omitted": max(len(health.reasons) - MAX_REASONS, 0),
    }


MAX_REASONS = 100
_COUNTS = ("ready", "scheduled", "retrying", "running", "held")


def _queue(queue: QueueHealth) -> Document:
    since, behind = queue.oldest_ready_since, queue.behind_since
    return {
        "name": queue.name,
        "status": queue.status.value,
        "paused": queue.paused,
        **{count: getattr(queue, count) for count in _COUNTS},
        "oldest_ready_age_seconds": _rounded(queue.oldest_ready_age),
        "oldest_ready_since": None if since is None else as_utc(since),
        "behind_since": None if behind is None else as_utc(behind),
        "max_running_seconds": _rounded(queue.max_running_seconds),
        "stuck": _stuck(queue.stuck),
        "window_seconds": queue.window,
        "finished_window": queue.finished_window,
        "failed_window": queue.failed_window,
        "failure_ratio": None if queue.failure_ratio is None else round(queue.failure_ratio, 4),
        "throughput_per_minute": _rounded(queue.throughput_per_minute),
        "workers": queue.served_by,
    }


def _stuck(stuck: Stuck) -> Document:
    return {
        "total": stuck.total,
        "overdue": stuck.overdue,
        "silent": stuck.silent,
        "lost": stuck.lost,
    }


def _reason(reason: Reason) -> Document:
    return {
        "status": reason.level.value,
        "measure": reason.measure,
        "queue": reason.queue or None,
        "observed": round(reason.observed, 4),
        "limit": reason.limit,
        "text": reason.text,
    }


def _rounded(number: float) -> float:
    return round(number, 3)


def as_utc(when: datetime) -> str:
    """
    Return the time in UTC, in ISO 8601 format.

    A naive datetime is in the default time zone.
    """
    if timezone.is_naive(when):
        when = timezone.make_aware(when, timezone.get_default_timezone())
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def database() -> str:
    """Return the kind of the queue's database: postgresql, sqlite or mysql (also MariaDB)."""
    return str(connections[queue_alias()].vendor)
