"""Which of the queues to claim from next, by what one look found at their heads."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from operator import attrgetter

from bgtask.db import Head
from bgtask.models import Task

FEW_QUEUES = 10  # Each of so few gets a claim of its own, as full a batch as it has.
SPARE_HEADS = 100  # Offered to a claim beyond what it may take, since others take some first.


class Heads:
    """
    The heads that may still be claimed, the most pressing first.

    Between equal priorities the queue that was served longest ago comes first. What a queue has
    left comes before the heads of a lower priority. So once it may have some left, ``floor`` is
    the lowest priority to be claimed before another look.
    """

    def __init__(self, heads: Sequence[Head], start: int = 0) -> None:
        """``start`` is a number of the worker, so that two workers begin at different queues."""
        self.are_many = len(heads) > FEW_QUEUES
        first = start % len(heads) if self.are_many else 0
        self._heads = [*heads[first:], *heads[:first]]
        self._floor: int | None = None
        self._are_short = False

    def __bool__(self) -> bool:
        return bool(self._heads)

    def choose(self, wanted: int, served: Mapping[str, int]) -> list[Head]:
        """
        Return the heads to claim by one statement, by their ids.

        A single one of them stands for its queue: claim from that, down to ``floor_below()``.
        """
        self._heads.sort(
            key=lambda head: (-head.priority, served.get(head.queue, 0), _has_more(head))
        )
        chosen: list[Head] = []
        floor = self._floor
        for head in self._heads[: wanted + SPARE_HEADS]:
            if floor is not None and head.priority < floor:
                break
            if not self._by_id(head):
                return chosen or [head]
            chosen.append(head)
            if head.next is not None and (floor is None or head.next > floor):
                floor = head.next
        return chosen

    def most_pressing(self, number: int) -> list[Head]:
        """Return so many of the heads that are left, those of the highest priorities."""
        return heapq.nlargest(number, self._heads, key=attrgetter("priority"))

    def floor_below(self, head: Head) -> int | None:
        """Return the priority of the next head, down to which this one's queue comes first."""
        others = (other.priority for other in self._heads if other is not head)
        return max((*others, *(() if self._floor is None else (self._floor,))), default=None)

    def claimed_from(self, head: Head, floor: int | None, tasks: list[Task], wanted: int) -> None:
        """Note what a claim from the queue of this head brought."""
        self._heads.remove(head)
        if len(tasks) < wanted:
            self._are_short = True
            if tasks:
                self._raise_floor(floor)
        else:
            priority = tasks[-1].priority
            self._heads.append(Head(head.queue, priority, None, priority))

    def claimed(self, heads: Sequence[Head], tasks: list[Task], wanted: int) -> None:
        """Note which of the chosen heads were claimed; others have those that are missing."""
        ids = {task.pk for task in tasks}
        ours = [place for place, head in enumerate(heads) if head.id in ids]
        gone = heads if len(tasks) < wanted else heads[: ours[-1] + 1]
        taken = {head.queue for head in gone}
        self._heads = [head for head in self._heads if head.queue not in taken]
        for head in gone:
            self._raise_floor(head.next)

    def _by_id(self, head: Head) -> bool:
        """Tell whether to claim this head alone, and not from its queue."""
        if not self.are_many or head.id is None:
            return False
        return self._are_short or not _has_more(head)

    def _raise_floor(self, priority: int | None) -> None:
        if priority is not None and (self._floor is None or priority > self._floor):
            self._floor = priority


def _has_more(head: Head) -> bool:
    """Tell whether the task behind the head is as pressing."""
    return head.next == head.priority
