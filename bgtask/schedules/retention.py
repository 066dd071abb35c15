"""Delete old decisions about slots."""

from __future__ import annotations

from collections.abc import Iterable

from bgtask.db import DatabaseNow
from bgtask.models import Slot


def prune_slots(age: float, after: int, keep: int = 100, limit: int = 1_000) -> tuple[int, int]:
    """
    Delete decisions that are older than ``age`` seconds, but not the last ones of a schedule.

    Look at ``limit`` rows from the id ``after`` on. Return how many were deleted, and the id to go
    on from, or 0 at the end.
    """
    rows = list(
        Slot.objects.filter(pk__gt=after, decided_at__lt=DatabaseNow(-age))
        .order_by("pk")
        .values_list("pk", "schedule")[:limit]
    )
    deleted = 0
    for schedule, ids in _by_schedule(rows):
        kept = Slot.objects.filter(schedule=schedule).order_by("-pk").values_list("pk", flat=True)
        first = next(iter(kept[keep - 1 : keep]), None)
        if first is not None:
            old = [id_ for id_ in ids if id_ < first]
            deleted += Slot.objects.filter(pk__in=old).delete()[0] if old else 0
    return deleted, rows[-1][0] if len(rows) == limit else 0


def _by_schedule(rows: Iterable[tuple[int, int]]) -> Iterable[tuple[int, list[int]]]:
    found: dict[int, list[int]] = {}
    for id_, schedule in rows:
        found.setdefault(schedule, []).append(id_)
    return found.items()
