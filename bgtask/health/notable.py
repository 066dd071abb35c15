"""Which queues to show, where there are more than anybody reads."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from bgtask.health.types import Level, QueueHealth

MOST_QUEUES = 100  # That a document, the metrics or a command list, each of them.


def notable(
    queues: Sequence[QueueHealth], number: int = MOST_QUEUES
) -> tuple[tuple[QueueHealth, ...], tuple[QueueHealth, ...]]:
    """
    Return so many queues to show, and the others; both in the order that they were given in.

    Those with the worst verdict come first, then the paused ones, then those that are behind by
    the most minutes, then those with the most to do.
    """
    if len(queues) <= number:
        return tuple(queues), ()
    names = {queue.name for queue in worst_first(queues, number)}
    shown = tuple(queue for queue in queues if queue.name in names)
    return shown, tuple(queue for queue in queues if queue.name not in names)


def worst_first(queues: Sequence[QueueHealth], number: int | None = None) -> list[QueueHealth]:
    """Return so many queues, or all, the most notable first."""
    return heapq.nsmallest(len(queues) if number is None else number, queues, key=_notability)


def _notability(queue: QueueHealth) -> tuple[float | str, ...]:
    return (
        -_LEVELS.index(queue.status),
        not queue.paused,
        -(queue.oldest_ready_age // 60),  # Minutes: seconds tell nothing of queues that are well.
        -(queue.ready + queue.running + queue.scheduled + queue.held),
        -queue.finished_window,
        queue.name,
    )


_LEVELS = list(Level)
