"""Figures and thresholds → what is wrong, how bad it is, and since when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import attrgetter

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from bgtask.conf import get_settings
from bgtask.health.figures import Health, Level, QueueHealth, Reason
from bgtask.health.limits import Limits, Thresholds
from bgtask.health.measuring import measure
from bgtask.health.words import duration, moment, percent

SAID = 3  # So many reasons fit in a sentence.


def take(queues: Sequence[str] | None = None, thresholds: Thresholds | None = None) -> Health:
    """
    The state of these queues, or of all, judged by these thresholds or by those of the settings.

    Five queries at most, none of which reads finished tasks.
    """
    thresholds = thresholds or Thresholds.in_force()
    return judge(measure(queues, thresholds), thresholds)


def only(health: Health, queues: Sequence[str]) -> Health:
    """
    Return the state of these queues alone, judged without the others.

    The figures are those of ``health``. A queue that it has no figures of is looked at now.
    """
    names = set(queues)
    known = tuple(queue for queue in health.queues if queue.name in names)
    if missing := names - {queue.name for queue in known}:
        known += measure(sorted(missing)).queues
    return judge(replace(health, queues=tuple(sorted(known, key=attrgetter("name")))))


def judge(health: Health, thresholds: Thresholds | None = None) -> Health:
    """The same figures with status, reasons and summary."""
    thresholds = thresholds or Thresholds.in_force()
    queues = []
    lease = get_settings().lease  # Once, since there may be thousands of queues.
    for queue in health.queues:
        reasons = tuple(_worst_first(_of_queue(queue, health, thresholds.of(queue.name), lease)))
        if not reasons and not queue.reasons:
            queues.append(queue)  # It passes, as all do before they are judged.
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
    name = queue.name
    if limits.oldest_ready is not None:  # Else it may wait, and for a worker too.
        if not queue.served_by and queue.oldest_ready_age > lease:
            yield Reason(
                level=Level.FAIL,
                measure="no_worker",
                text=_("no worker serves %(queue)s, where %(number)s tasks are ready")
                % {"queue": name, "number": f"{queue.ready:,}"},
                queue=name,
                observed=queue.oldest_ready_age,
                limit=lease,
            )
        level, limit = _exceeded(queue.oldest_ready_age, limits.oldest_ready)
        if level != Level.PASS and queue.oldest_ready_since is not None:
            yield Reason(
                level=level,
                measure="oldest_ready_age",
                text=_(
                    "%(queue)s has been behind since %(since)s: oldest task waiting %(age)s "
                    "(limit %(limit)s)"
                )
                % {
                    "queue": name,
                    "since": moment(queue.oldest_ready_since, health.generated_at),
                    "age": duration(queue.oldest_ready_age),
                    "limit": duration(limit),
                },
                queue=name,
                observed=queue.oldest_ready_age,
                limit=limit,
            )
    if limits.failure_ratio is not None and queue.failure_ratio is not None:
        level, limit = _exceeded(queue.failure_ratio, limits.failure_ratio)
        if level != Level.PASS:
            yield Reason(
                level=level,
                measure="failure_ratio",
                text=_(
                    "%(queue)s: %(ratio)s of %(number)s attempts failed in the last %(window)s "
                    "(limit %(limit)s)"
                )
                % {
                    "ratio": percent(queue.failure_ratio),
                    "number": f"{queue.finished_window:,}",
                    "queue": name,
                    "window": duration(queue.window),
                    "limit": percent(limit),
                },
                queue=name,
                observed=queue.failure_ratio,
                limit=limit,
            )
    if queue.stuck.total:
        yield Reason(
            level=Level.WARN,
            measure="stuck",
            text=ngettext(
                "%(number)s task of %(queue)s is stuck (%(why)s)",
                "%(number)s tasks of %(queue)s are stuck (%(why)s)",
                queue.stuck.total,
            )
            % {"number": f"{queue.stuck.total:,}", "queue": name, "why": _why(queue)},
            queue=name,
            observed=queue.stuck.total,
            limit=0,
        )


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
    if unserved and not health.workers.alive:  # Said once, and not for each queue.
        waiting = sum(queue.ready for queue in health.queues if queue.oldest_ready_since)
        yield replace(
            unserved[0],
            text=_("no worker is alive, and %(number)s tasks are ready")
            % {"number": f"{waiting:,}"},
            queue="",
            observed=max(reason.observed for reason in unserved),
        )
        of_queues = [reason for reason in of_queues if reason.measure != "no_worker"]
    yield from of_queues
    if silent := health.workers.silent:
        age = duration(health.workers.heartbeat_age_max)
        yield Reason(
            level=Level.WARN,
            measure="silent",
            text=ngettext(
                "%(number)s worker is silent, for %(age)s",
                "%(number)s workers are silent, for up to %(age)s",
                silent,
            )
            % {"number": f"{silent:,}", "age": age},
            observed=silent,
            limit=0,
        )


def _worst_first(reasons: Iterator[Reason]) -> list[Reason]:
    """The worst, then the most exceeded; with no worker in front, for that explains the rest."""
    order = list(Level)

    def badness(reason: Reason) -> tuple[int, bool, float]:
        excess = reason.observed / reason.limit if reason.limit else reason.observed
        return order.index(reason.level), reason.measure == "no_worker", excess

    return sorted(reasons, key=badness, reverse=True)


def _summary(health: Health) -> str:
    if health.status == Level.PASS:
        return _("nothing is behind; %(ready)s ready, %(running)s running, %(workers)s") % {
            "ready": f"{health.total('ready'):,}",
            "running": f"{health.total('running'):,}",
            "workers": ngettext("%(number)s worker", "%(number)s workers", health.workers.alive)
            % {"number": f"{health.workers.alive:,}"},
        }
    said = "; ".join(reason.text for reason in health.reasons[:SAID])
    if (more := len(health.reasons) - SAID) > 0:
        said += ngettext("; and %(number)s more", "; and %(number)s more", more) % {"number": more}
    return said
