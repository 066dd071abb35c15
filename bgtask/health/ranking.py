"""Choose the queues to show, if there are more than anybody reads."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from bgtask.health.types import QueueHealth

MAX_QUEUES = 100  # Queues that a document, the metrics or a command lists.


def select_queues(
    queues: Sequence[QueueHealth], number: int = MAX_QUEUES
) -> tuple[tuple[QueueHealth, ...], tuple[QueueHealth, ...]]:
    """
    Return the queues to show, at most ``number``, and the others. Both keep the given order.

    Queues with the worst status are chosen first. Then come the paused ones, those that are
    behind by the most minutes, and those with the most tasks.
    """
    if len(queues) <= number:
        return tuple(queues), ()
    names = {queue.name for queue in worst_first(queues, number)}
    shown = tuple(queue for queue in queues if queue.name in names)
    return shown, tuple(queue for queue in queues if queue.name not in names)


def worst_first(queues: Sequence[QueueHealth], number: int | None = None) -> list[QueueHealth]:
    """Return ``number`` queues, or all, the worst first."""
    return heapq.nsmallest(len(queues) if number is None else number, queues, key=_rank)


def _rank(queue: QueueHealth) -> tuple[float | str, ...]:
    return (
        -queue.status.rank,
        not queue.paused,
        # Compare minutes, because the seconds of a healthy queue mean nothing.
        -(queue.oldest_ready_age // 60),
        -(queue.ready + queue.running + queue.scheduled + queue.held),
        -queue.finished_window,
        queue.name,
    )
