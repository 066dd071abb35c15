"""
The verdict as ``application/health+json``, after draft-inadarei-api-health-check-06.

The draft expired in 2022, but it is still the only format that several tools share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.utils.translation import gettext as _

import bgtask
from bgtask import health
from bgtask.health import Level, QueueHealth
from bgtask_admin.monitoring.snapshot import Snapshot

CONTENT_TYPE = "application/health+json"
_FRAME = {"version": "1", "releaseId": bgtask.__version__, "serviceId": "bgtask"}


def as_health(snapshot: Snapshot) -> dict[str, Any]:
    """
    Return the document that docs/monitoring/health.schema.json describes.

    The verdict is about all queues, even if the document lists the checks of only some queues.
    """
    figures = snapshot.health
    shown, omitted = health.select_queues(figures.queues)
    document: dict[str, Any] = {"status": figures.status.value, **_FRAME}
    if figures.status != Level.PASS:
        document["output"] = figures.sentence
    else:
        document["notes"] = [figures.sentence]
    return {
        **document,
        "generated_at": health.as_utc(figures.generated_at),
        "age_seconds": round(snapshot.age, 3),
        "window_seconds": figures.window,
        "database": snapshot.database,
        "queues_omitted": len(omitted),
        "checks": dict(_checks(figures, shown)),
    }


def as_unreadable(output: str) -> dict[str, Any]:
    """Return a document of the same format for a database that can't be read."""
    check = {"componentType": "datastore", "status": "fail", "output": output}
    return {
        "status": "fail",
        **_FRAME,
        "output": f"{Level.FAIL.word}: {output}",
        "checks": {"database:readable": [check]},
    }


def _checks(
    figures: health.Health, queues: Sequence[QueueHealth]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    time = health.as_utc(figures.generated_at)
    for queue in queues:
        for measure, value, unit in _measures(queue):
            yield (
                f"queue.{queue.name}:{measure}",
                [
                    {
                        "componentId": queue.name,
                        "componentType": "component",
                        "observedValue": value,
                        "observedUnit": unit,
                        "time": time,
                        **_judgement(queue.reasons, measure),
                    }
                ],
            )
    if figures.failed_tasks is not None:
        check = {
            "componentType": "system",
            "observedValue": figures.failed_tasks,
            "observedUnit": "tasks",
            "time": time,
            "status": Level.PASS.value,
        }
        if figures.failed_tasks_at_least:
            check["output"] = _("%(number)s failed tasks") % {"number": figures.failed_number}
        yield "tasks:failed", [check]
    workers = figures.workers
    of_the_whole: list[tuple[str, int, str, str]] = [
        # The checks of the queues say whether enough workers are alive.
        ("workers:alive", workers.alive, "workers", "no_worker"),
        ("workers:silent", workers.silent, "workers", "silent"),
    ]
    if figures.late_schedules is not None:
        late = len(figures.late_schedules)
        of_the_whole.append(("schedules:late", late, "schedules", "schedule_late"))
    for name, number, unit, measure in of_the_whole:
        reasons = tuple(reason for reason in figures.reasons if not reason.queue)
        yield (
            name,
            [
                {
                    "componentType": "system",
                    "observedValue": number,
                    "observedUnit": unit,
                    "time": time,
                    **_judgement(reasons, measure),
                }
            ],
        )


def _measures(queue: QueueHealth) -> Iterator[tuple[str, float | None, str]]:
    yield "oldest_ready_age", round(queue.oldest_ready_age, 3), "s"
    ratio = queue.failure_ratio
    yield "failure_ratio", None if ratio is None else round(ratio, 4), "1"
    yield "no_worker", queue.served_by, "workers"
    yield "stuck", queue.stuck.total, "tasks"


def _judgement(reasons: tuple[health.Reason, ...], measure: str | None) -> dict[str, str]:
    for reason in reasons:
        if measure in (None, reason.measure):
            return {"status": reason.level.value, "output": reason.text}
    return {"status": "pass"}
