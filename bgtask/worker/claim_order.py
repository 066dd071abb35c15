"""Decide what a worker claims next: which queue, from where in its index, and when a suspect."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from bgtask import clock
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


# How long a position is used. For so long, a more pressing task may be overlooked.
CURSOR_LIFETIME_SECONDS = 1.0
CURSOR_LIFETIME_CLAIMS = 200


class ClaimCursor:
    """
    The key of the last claimed task, by queue.

    While a transaction holds an old snapshot, the database can't remove the index entries of
    tasks that were claimed since. A scan from the beginning of the index would step over all of
    them, and each claim adds more.
    """

    def __init__(self) -> None:
        self._positions: dict[str, tuple[tuple[Any, ...], float, int]] = {}

    def get(self, queue: str) -> tuple[Any, ...] | None:
        if queue not in self._positions:
            return None
        key, since, claims = self._positions[queue]
        if claims >= CURSOR_LIFETIME_CLAIMS or clock.monotonic() > since + CURSOR_LIFETIME_SECONDS:
            del self._positions[queue]
            return None
        return key

    def advance(self, queue: str, key: tuple[Any, ...]) -> None:
        _, since, claims = self._positions.get(queue, (None, clock.monotonic(), 0))
        self._positions[queue] = (key, since, claims + 1)

    def drop(self, queue: str) -> None:
        self._positions.pop(queue, None)

    def clear(self) -> None:
        self._positions.clear()


MAX_ISOLATION_WAIT_SECONDS = 60.0  # After this wait, suspects run before other tasks.
ISOLATION_PERIOD_SECONDS = 1.0  # For so long, only suspects are claimed, one after the other.


class IsolationGate:
    """
    The decision whether this process runs a suspect now, or other tasks.

    A worker was holding the suspect when that worker died. The process runs a suspect when it is
    idle. Otherwise it lets its threads finish at least once a minute, and then runs a suspect.
    If the process dies, the suspect was the only task that can have caused it.
    """

    def __init__(self) -> None:
        self.running_exclusive = False  # A suspect is running.
        self._waiting_since: float | None = None
        self._exclusive_until = 0.0

    def wants_exclusive(self, waiting: bool, idle: bool) -> bool:
        """
        Return whether only suspects may be claimed now.

        ``waiting`` tells that there are suspects to run, ``idle`` that there is nothing else to do.
        """
        if not waiting:
            self._waiting_since = None
            return False
        now = clock.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        return (
            idle
            or now < self._exclusive_until
            or now > self._waiting_since + MAX_ISOLATION_WAIT_SECONDS
        )

    def claimed(self, found: bool) -> None:
        now = clock.monotonic()
        if now > self._exclusive_until:
            self._exclusive_until = now + ISOLATION_PERIOD_SECONDS
        self._waiting_since = now
        self.running_exclusive = found
