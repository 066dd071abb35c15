"""
Find since when queues have been behind, in the samples that workers store every minute.

The time at which the oldest task was due doesn't tell it. That task may have been moved, held or
paused until now, and an older task may have been finished.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Case, F, Q, Value, When, Window
from django.db.models.functions import Lag, Lead

from bgtask.models import QueueStats

MINUTE = timedelta(minutes=1)
LOOKED_BACK = timedelta(hours=6)
GAP = timedelta(minutes=2)  # Without a sample for longer, nobody knows what happened.


def behind_since(limits: Mapping[str, float], now: datetime) -> dict[str, datetime]:
    """
    Return the first minute from which on every sample of a queue was above its limit, in seconds.

    A queue is left out if this is not known. Run one query, or two if a queue had no sample
    shortly before, or none without queues.
    """
    if not limits:
        return {}
    latest = now.replace(second=0, microsecond=0)
    start = latest - LOOKED_BACK
    known: dict[str, datetime] = {}
    uncertain: dict[str, datetime] = {}
    for queue, (minute, before) in _began(limits, latest).items():
        if before is not None and minute - before <= GAP:
            known[queue] = minute
        elif minute - start > GAP:
            uncertain[queue] = minute
    sampled = _sampled_before(set(uncertain.values()))
    return known | {queue: minute for queue, minute in uncertain.items() if minute in sampled}


def _began(
    limits: Mapping[str, float], latest: datetime
) -> dict[str, tuple[datetime, datetime | None]]:
    """Return the first minute above the limit, and that of the queue's sample before it."""
    by_minute: dict[str, Any] = {"partition_by": "queue", "order_by": "minute"}
    # Name each minute, so that the index is not read for the other queues of all these minutes.
    minutes = [latest - MINUTE * number for number in range(LOOKED_BACK // MINUTE + 1)]
    rows = (
        QueueStats.objects.filter(minute__in=minutes, queue__in=list(limits))
        .annotate(late=Case(When(_in_time(limits), then=Value(0)), default=Value(1)))
        .annotate(
            before=Window(Lag("minute"), **by_minute),
            late_before=Window(Lag(F("late")), **by_minute),
            after=Window(Lead("minute"), **by_minute),
        )
        # Read only the samples with which a delay began, and the last one of each queue.
        .filter(Q(late=1, late_before=0) | Q(late=1, late_before=None) | Q(after=None))
        .order_by("queue", "minute")
        .values_list("queue", "minute", "late", "before", "late_before", "after")
    )
    began: dict[str, tuple[datetime, datetime | None]] = {}
    for queue, minute, late, before, late_before, after in rows:
        if late and not late_before:
            began[queue] = minute, before
        if after is None and not late:  # The delay that began has ended.
            began.pop(queue, None)
    return began


def _in_time(limits: Mapping[str, float]) -> Q:
    """Return the condition for the samples that were not above the limit of their queue."""
    queues = defaultdict(list)
    for queue, limit in limits.items():
        queues[limit].append(queue)
    condition = Q()
    for limit, names in queues.items():
        condition |= Q(queue__in=names, oldest_ready_age__lte=int(limit * 1000))
    return condition


def _sampled_before(minutes: set[datetime]) -> set[datetime]:
    """Return the minutes that follow another sample, of whatever queue, without a gap."""
    if not minutes:
        return set()
    steps = [MINUTE * (number + 1) for number in range(GAP // MINUTE)]
    earlier = {minute - step for minute in minutes for step in steps}
    sampled = set(
        QueueStats.objects.order_by()
        .filter(minute__in=sorted(earlier))
        .values_list("minute", flat=True)
        .distinct()
    )
    return {minute for minute in minutes if any(minute - step in sampled for step in steps)}
