"""Judge the figures by the thresholds: what is wrong, how bad it is, and since when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from operator import attrgetter

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from bgtask.conf import get_settings
from bgtask.health.collect import measure
from bgtask.health.formatting import duration, moment, percent
from bgtask.health.thresholds import Limits, Thresholds
from bgtask.health.types import Health, Level, QueueHealth, Reason, Workers
from bgtask.models.schedule import LATE_SECONDS, VERY_LATE_SECONDS

MAX_SUMMARY_REASONS = 3  # Number of reasons that fit in a sentence.


def check(queues: Sequence[str] | None = None, thresholds: Thresholds | None = None) -> Health:
    """
    Return the state of these queues, or of all, judged by thresholds.

    By default, the thresholds are those of the settings. ``measure`` describes the queries.
    """
    thresholds = thresholds or Thresholds.in_force()
    return evaluate(measure(queues, thresholds), thresholds)


def only(health: Health, queues: Sequence[str]) -> Health:
    """
    Return the state of these queues alone, judged without the others.

    The figures are those of ``health``. A queue that has no figures there is measured now.
    FAILED tasks are counted for all queues together, so there is no number of them.
    """
    names = set(queues)
    known = tuple(queue for queue in health.queues if queue.name in names)
    if missing := names - {queue.name for queue in known}:
        known += measure(sorted(missing)).queues
    return evaluate(
        replace(
            health,
            queues=tuple(sorted(known, key=attrgetter("name"))),
            failed_tasks=None,
            failed_tasks_at_least=False,
            late_schedules=None,
        )
    )


def evaluate(health: Health, thresholds: Thresholds | None = None) -> Health:
    """Return the same figures with status, reasons and summary."""
    thresholds = thresholds or Thresholds.in_force()
    queues = []
    lease = get_settings().lease  # Read once, since there may be thousands of queues.
    for queue in health.queues:
        reasons = tuple(_worst_first(_of_queue(queue, health, thresholds.of(queue.name), lease)))
        if not reasons and not queue.reasons:
            queues.append(queue)  # It passes, as every queue does by default.
            continue
        status = Level.worst(reason.level for reason in reasons)
        queues.append(replace(queue, reasons=reasons, status=status))
    health = replace(health, queues=tuple(queues))
    reasons = tuple(_worst_first(_of_all(health)))
    health = replace(
        health, reasons=reasons, status=Level.worst(reason.level for reason in reasons)
    )
    return replace(health, summary=_summary(health))


def _of_queue(queue: QueueHealth, health: Health, limits: Limits, lease: float) -> Iterator[Reason]:
    if limits.oldest_ready is not None:  # Without limits, tasks may wait, even without a worker.
        if not queue.served_by and queue.oldest_ready_age > lease:
            yield Reason(
                level=Level.FAIL,
                measure="no_worker",
                queue=queue.name,
                observed=queue.oldest_ready_age,
                limit=lease,
                describe=partial(_no_worker, queue),
            )
        level, limit = _exceeded(queue.oldest_ready_age, limits.oldest_ready)
        if level != Level.PASS and queue.oldest_ready_since is not None:
            yield Reason(
                level=level,
                measure="oldest_ready_age",
                queue=queue.name,
                observed=queue.oldest_ready_age,
                limit=limit,
                describe=partial(_behind, queue, health.generated_at, limit),
            )
    if limits.failure_ratio is not None and queue.failure_ratio is not None:
        level, limit = _exceeded(queue.failure_ratio, limits.failure_ratio)
        if level != Level.PASS:
            yield Reason(
                level=level,
                measure="failure_ratio",
                queue=queue.name,
                observed=queue.failure_ratio,
                limit=limit,
                describe=partial(_failing, queue, queue.failure_ratio, limit),
            )
    if queue.stuck.total:
        yield Reason(
            level=Level.WARN,
            measure="stuck",
            queue=queue.name,
            observed=queue.stuck.total,
            limit=0,
            describe=partial(_stuck, queue),
        )


def _no_worker(queue: QueueHealth) -> str:
    return _("no worker serves %(queue)s, where %(number)s tasks are ready") % {
        "queue": queue.name,
        "number": f"{queue.ready:,}",
    }


def _behind(queue: QueueHealth, now: datetime, limit: float) -> str:
    figures = {
        "queue": queue.name,
        "age": duration(queue.oldest_ready_age),
        "limit": duration(limit),
    }
    if queue.behind_since is None:
        return _("%(queue)s is behind: oldest task waiting %(age)s (limit %(limit)s)") % figures
    return _(
        "%(queue)s has been behind since %(since)s: oldest task waiting %(age)s (limit %(limit)s)"
    ) % {**figures, "since": moment(queue.behind_since, now)}


def _failing(queue: QueueHealth, ratio: float, limit: float) -> str:
    return _(
        "%(queue)s: %(ratio)s of %(number)s attempts failed in the last %(window)s "
        "(limit %(limit)s)"
    ) % {
        "ratio": percent(ratio),
        "number": f"{queue.finished_window:,}",
        "queue": queue.name,
        "window": duration(queue.window),
        "limit": percent(limit),
    }


def _stuck(queue: QueueHealth) -> str:
    return ngettext(
        "%(number)s task of %(queue)s is stuck (%(why)s)",
        "%(number)s tasks of %(queue)s are stuck (%(why)s)",
        queue.stuck.total,
    ) % {"number": f"{queue.stuck.total:,}", "queue": queue.name, "why": _why(queue)}


def _exceeded(observed: float, limits: tuple[float, float]) -> tuple[Level, float]:
    warn, fail = limits
    if observed > fail:
        return Level.FAIL, fail
    return (Level.WARN, warn) if observed > warn else (Level.PASS, warn)


def _why(queue: QueueHealth) -> str:
    reasons = {
        _("%s past the deadline"): queue.stuck.overdue,
        _("%s with a silent worker"): queue.stuck.silent,
        _("%s with a dead worker"): queue.stuck.lost,
    }
    return ", ".join(why % f"{number:,}" for why, number in reasons.items() if number)


def _of_all(health: Health) -> Iterator[Reason]:
    of_queues = [reason for queue in health.queues for reason in queue.reasons]
    unserved = [reason for reason in of_queues if reason.measure == "no_worker"]
    if unserved and not health.workers.alive:  # Say it once, not for each queue.
        yield replace(
            unserved[0],
            queue="",
            observed=max(reason.observed for reason in unserved),
            describe=partial(_no_worker_at_all, health),
        )
        of_queues = [reason for reason in of_queues if reason.measure != "no_worker"]
    yield from of_queues
    if silent := health.workers.silent:
        yield Reason(
            level=Level.WARN,
            measure="silent",
            observed=silent,
            limit=0,
            describe=partial(_silent, health.workers),
        )
    if health.late_schedules:
        observed = _late_by(health)
        is_very_late = observed > VERY_LATE_SECONDS
        yield Reason(
            level=Level.FAIL if is_very_late else Level.WARN,
            measure="schedule_late",
            observed=observed,
            limit=VERY_LATE_SECONDS if is_very_late else LATE_SECONDS,
            describe=partial(_late, health),
        )


def _late_by(health: Health) -> float:
    """Return the age of the oldest slot that nobody has decided in time, in seconds."""
    late = health.late_schedules or ()
    return max(((health.generated_at - one.since).total_seconds() for one in late), default=0.0)


def _late(health: Health) -> str:
    late = health.late_schedules or ()
    return ngettext(
        "schedule %(key)s is late by %(age)s",
        "%(number)s schedules are late, %(key)s by %(age)s",
        len(late),
    ) % {"number": f"{len(late):,}", "key": late[0].key, "age": duration(_late_by(health))}


def _no_worker_at_all(health: Health) -> str:
    waiting = sum(queue.ready for queue in health.queues if queue.oldest_ready_since)
    return _("no worker is alive, and %(number)s tasks are ready") % {"number": f"{waiting:,}"}


def _silent(workers: Workers) -> str:
    return ngettext(
        "%(number)s worker is silent, for %(age)s",
        "%(number)s workers are silent, for up to %(age)s",
        workers.silent,
    ) % {"number": f"{workers.silent:,}", "age": duration(workers.heartbeat_age_max)}


def _worst_first(reasons: Iterator[Reason]) -> list[Reason]:
    """
    Return the reasons by level, then by how far the limit is exceeded, the worst first.

    Within a level, ``no_worker`` comes first, because it explains the others.
    """

    def badness(reason: Reason) -> tuple[int, bool, float]:
        excess = reason.observed / reason.limit if reason.limit else reason.observed
        return reason.level.rank, reason.measure == "no_worker", excess

    return sorted(reasons, key=badness, reverse=True)


def _summary(health: Health) -> str:
    if health.status == Level.PASS:
        text = _("nothing is behind; %(ready)s ready, %(running)s running, %(workers)s") % {
            "ready": f"{health.total('ready'):,}",
            "running": f"{health.total('running'):,}",
            "workers": ngettext("%(number)s worker", "%(number)s workers", health.workers.alive)
            % {"number": f"{health.workers.alive:,}"},
        }
        if not health.failed_tasks:
            return text
        return text + ngettext(
            "; %(number)s failed task", "; %(number)s failed tasks", health.failed_tasks
        ) % {"number": health.failed_number}
    said = "; ".join(reason.text for reason in health.reasons[:MAX_SUMMARY_REASONS])
    if (more := len(health.reasons) - MAX_SUMMARY_REASONS) > 0:
        said += ngettext("; and %(number)s more", "; and %(number)s more", more) % {"number": more}
    return said
