"""Choose the queues to claim from next, by the heads that a poll found."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from operator import attrgetter

from bgtask.db import Head
from bgtask.models import Task

FEW_QUEUES = 10  # Up to so many queues, each gets its own claim, with as full a batch as it has.
# Heads that a claim is given beyond its limit, because other workers claim some of them first.
SPARE_HEADS = 100


class Heads:
    """
    The heads that may still be claimed, the most pressing first.

    Between equal priorities, the queue that was served longest ago comes first. The tasks that a
    queue has left come before heads of a lower priority. So once a queue may have tasks left,
    their priority becomes the floor: the lowest priority to claim before another poll.
    """

    def __init__(self, heads: Sequence[Head], start: int = 0) -> None:
        """Take ``start`` from the worker, so that two workers begin at different queues."""
        self.are_many = len(heads) > FEW_QUEUES
        first = start % len(heads) if self.are_many else 0
        self._heads = [*heads[first:], *heads[:first]]
        self._floor: int | None = None
        self._are_short = False

    def __bool__(self) -> bool:
        return bool(self._heads)

    def choose(self, wanted: int, served: Mapping[str, int]) -> list[Head]:
        """
        Return the heads that one statement claims by their ids.

        If only one head is returned, claim from its queue, down to ``floor_below()``.
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
        """Return up to ``number`` of the heads that are left, with the highest priorities."""
        return heapq.nlargest(number, self._heads, key=attrgetter("priority"))

    def floor_below(self, head: Head) -> int | None:
        """Return the priority of the next head: down to this, the queue of ``head`` is first."""
        others = (other.priority for other in self._heads if other is not head)
        return max((*others, *(() if self._floor is None else (self._floor,))), default=None)

    def claimed_from(self, head: Head, floor: int | None, tasks: list[Task], wanted: int) -> None:
        """Record the result of a claim from the queue of this head."""
        self._heads.remove(head)
        if len(tasks) < wanted:
            self._are_short = True
            if tasks:
                self._raise_floor(floor)
        else:
            priority = tasks[-1].priority
            self._heads.append(Head(head.queue, priority, None, priority))

    def claimed(self, heads: Sequence[Head], tasks: list[Task], wanted: int) -> None:
        """Record which of the chosen heads were claimed; other workers have the missing ones."""
        ids = {task.pk for task in tasks}
        ours = [place for place, head in enumerate(heads) if head.id in ids]
        gone = heads if len(tasks) < wanted else heads[: ours[-1] + 1]
        taken = {head.queue for head in gone}
        self._heads = [head for head in self._heads if head.queue not in taken]
        for head in gone:
            self._raise_floor(head.next)

    def _by_id(self, head: Head) -> bool:
        """Return whether to claim this head by its id, rather than from its queue."""
        if not self.are_many or head.id is None:
            return False
        return self._are_short or not _has_more(head)

    def _raise_floor(self, priority: int | None) -> None:
        if priority is not None and (self._floor is None or priority > self._floor):
            self._floor = priority


def _has_more(head: Head) -> bool:
    """Return whether the task behind the head has the same priority."""
    return head.next == head.priority
