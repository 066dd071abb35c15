"""What to take next: look what there is, claim the most pressing, hand it out or put it aside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from bgtask.conf import get_settings
from bgtask.db import MOST_HEADS, Head, QueueSnapshot
from bgtask.lifecycle.claim import (
    claim_heads,
    claim_notified,
    claim_queue,
    claim_suspect,
    sort_claims,
    take_snapshot,
)
from bgtask.lifecycle.promote import promote_due
from bgtask.models import Task, Worker
from bgtask.status import HeldFor
from bgtask.worker.cursor import ClaimCursor
from bgtask.worker.heads import Heads
from bgtask.worker.in_flight import InFlightTasks
from bgtask.worker.isolation import IsolationGate
from bgtask.worker.pool import Pool

MAX_CLAIM_WAIT_SECONDS = (
    1.0  # Seconds that a claimed task may wait for a thread before it is released.
)
MIN_SNAPSHOT_SECONDS, MAX_SNAPSHOT_SECONDS = (
    0.05,
    1.0,
)  # Seconds that a look serves, while each claim is filled: from, to …
MOST_SERVED = 2 * MOST_HEADS  # Queues that are remembered as served.
MOST_LEFT = 500  # Heads that are remembered where there are more queues than one look reads.
POLL_TIME_SHARE = (
    0.1  # … depending on what it took, for this is the share of time that may go into it.
)


class Claimer:
    """
    ``queues`` None serves all. ``changed_queues`` names the queues that were heard of since it was
    asked before; ``on_poll`` is called at each poll with the seconds until the next task is due.
    """

    _worker: Worker  # For whom. Declared dead, it is followed by another.

    def __init__(
        self,
        queues: Sequence[str] | None,
        in_flight: InFlightTasks,
        pool: Pool,
        isolation: IsolationGate,
        *,
        changed_queues: Callable[[], set[str]],
        on_poll: Callable[[float | None], None],
    ) -> None:
        self._queues = queues
        self._in_flight_tasks = in_flight
        self._pool = pool
        self._isolation = isolation
        self._changed = changed_queues
        self._on_poll = on_poll
        self._cursor = ClaimCursor()
        self._round = 0
        self._served: dict[str, int] = {}  # The round in which a queue was served last.
        self._cached_snapshot: tuple[QueueSnapshot, Heads] | None = None
        self._cached_until = 0.0
        self._after = ""  # The queue behind which to look next.
        self._left: list[Head] = []  # The most pressing heads of the looks before, if it is one.
        self._patience = MAX_CLAIM_WAIT_SECONDS

    def poll(self, after: str = "") -> QueueSnapshot:
        """What there is to do; what must not be started is put aside at once."""
        snapshot = take_snapshot(self._queues, after, MOST_HEADS)
        if snapshot.next_due is not None and snapshot.next_due <= 0:
            promote_due()
            snapshot = take_snapshot(self._queues, after, MOST_HEADS)
        self._on_poll(snapshot.next_due)
        self._withdraw_blocked(snapshot)
        return snapshot

    def has_claimable(self) -> bool:
        """Is there anything to claim, now, in the queues that are served?"""
        after = ""
        while True:
            snapshot = self.poll(after)
            queues = {head.queue for head in snapshot.heads} | self._served_here(snapshot.suspects)
            if queues - snapshot.paused:
                return True
            if not snapshot.last:
                return False
            after = snapshot.last

    def claim(self, worker: Worker, wanted: int) -> int:
        """Claim so many, hand them to the pool or put them aside; return how many there were."""
        self._worker = worker
        self._round += 1
        claimed = self._claim_notified(wanted) or self._claim_from_snapshot(wanted)
        if not claimed and not self._in_flight_tasks:
            self._cursor.clear()
        return claimed

    def _claim_from_snapshot(self, wanted: int) -> int:
        """By what was seen just now, else or where that is not enough by a new look."""
        just_now = wanted > 0 and time.monotonic() < self._cached_until
        seen, self._cached_snapshot = self._cached_snapshot if just_now else None, None
        claimed = 0 if seen is None else self._claim_by(*seen, wanted)
        if seen is None or claimed < wanted:
            claimed += self._claim_looking(wanted - claimed)
        elif not seen[0].suspects or seen[1].are_many:
            self._cached_snapshot = seen
        return claimed

    def _claim_looking(self, wanted: int) -> int:
        """Look, and claim; where there are more queues than one look reads, until all were seen."""
        claimed = 0
        is_complete = False
        while True:
            is_complete |= not self._after
            began = time.monotonic()
            snapshot = self.poll(self._after)
            now = time.monotonic()
            # While somebody holds an old snapshot it steps over all that was claimed since.
            self._cached_until = now + min(
                max((now - began) / POLL_TIME_SHARE, MIN_SNAPSHOT_SECONDS), MAX_SNAPSHOT_SECONDS
            )
            # Beside the most pressing heads of the looks before, unless this one read all queues.
            left = self._left if self._after or snapshot.last else []
            by_queue = {head.queue: head for head in (*left, *snapshot.heads)}
            heads = Heads(
                [head for queue, head in by_queue.items() if queue not in snapshot.paused],
                start=self._worker.pk,  # A random number.
            )
            claimed += self._claim_by(snapshot, heads, wanted - claimed)
            self._left = heads.most_pressing(MOST_LEFT) if self._after or snapshot.last else []
            self._after = snapshot.last
            if claimed >= wanted:
                if not snapshot.suspects or heads.are_many:
                    self._cached_snapshot = snapshot, heads
                return claimed
            if is_complete and not self._after:
                return claimed

    def _claim_notified(self, wanted: int) -> int:
        """With nothing at all to do, and told of one queue: there, before looking anywhere."""
        changed = self._changed()
        if (
            not wanted
            or self._in_flight_tasks
            or self._cached_snapshot is not None
            or len(changed) != 1
            or "" in changed
        ):
            return 0
        tasks = claim_notified(self._worker, changed.pop(), wanted)
        self._accept(tasks, QueueSnapshot())
        time.sleep(0)  # The threads first, and then the look for more.
        return len(tasks)

    def _claim_by(self, snapshot: QueueSnapshot, heads: Heads, wanted: int) -> int:
        """Queue by queue, or the heads of many at once, the most pressing first."""
        if self._isolation.wants_exclusive(
            waiting=bool(self._served_here(snapshot.suspects - snapshot.paused)),
            idle=not heads and not snapshot.last and not self._in_flight_tasks,
        ):
            return self._claim_suspect(snapshot) if not self._in_flight_tasks else 0
        claimed = 0
        while wanted > 0 and (chosen := heads.choose(wanted, self._served)):
            if len(chosen) > 1:
                tasks = claim_heads(self._worker, chosen, wanted)
                self._serve(task.queue for task in tasks)
                self._accept(tasks, snapshot)
                heads.claimed(chosen, tasks, wanted)
            else:
                floor = heads.floor_below(chosen[0])
                self._serve([chosen[0].queue])
                tasks = self._claim_from(chosen[0].queue, wanted, floor, snapshot)
                heads.claimed_from(chosen[0], floor, tasks, wanted)
            claimed += len(tasks)
            wanted -= len(tasks)
        return claimed

    def _serve(self, queues: Iterable[str]) -> None:
        for queue in queues:
            self._served.pop(queue, None)  # So that the queues stay in the order of service.
            self._served[queue] = self._round
        while len(self._served) > MOST_SERVED:
            del self._served[next(iter(self._served))]

    def _claim_from(
        self, queue: str, wanted: int, floor: int | None, snapshot: QueueSnapshot
    ) -> list[Task]:
        start = self._cursor.get(queue)
        tasks = claim_queue(self._worker, queue, wanted, start, floor)
        self._accept(tasks, snapshot)
        if start is not None and len(tasks) < wanted:
            self._cursor.drop(queue)
            more = claim_queue(self._worker, queue, wanted - len(tasks), None, floor)
            self._accept(more, snapshot)
            tasks += more
        if len(tasks) == wanted:
            self._cursor.advance(queue, tasks[-1].claim_key)
        else:
            self._cursor.drop(queue)
        return tasks

    def _claim_suspect(self, snapshot: QueueSnapshot) -> int:
        tasks = claim_suspect(self._worker, self._queues, snapshot.paused)
        self._isolation.claimed(bool(tasks))
        self._accept(tasks, snapshot)
        return len(tasks)

    def _served_here(self, queues: frozenset[str]) -> frozenset[str]:
        return queues if self._queues is None else queues & frozenset(self._queues)

    def _accept(self, tasks: list[Task], snapshot: QueueSnapshot) -> None:
        """InFlightTasks out what may be started, and put aside what may not."""
        if not tasks:
            return
        self._in_flight_tasks.add(tasks)
        startable, on_hold, unknown = sort_claims(tasks, snapshot.on_hold)
        # All of them first: where the database fails, what is neither in hand nor handed out is
        # found by reconciling, and what is startable must not wait for the rest.
        self._in_flight_tasks.drop([*on_hold, *unknown])
        if startable:
            # The settings are read once: to do so for each task would take as long as its claim.
            own = [task.seconds_allowed for task in startable if task.max_run_time is not None]
            shortest = min(own, default=get_settings().max_run_time)
            self._patience = min(MAX_CLAIM_WAIT_SECONDS, shortest / 4)
            self._pool.submit(startable)
        elif not self._in_flight_tasks:
            self._isolation.running_exclusive = False
        self._in_flight_tasks.set_aside(on_hold, HeldFor.TYPE)
        self._in_flight_tasks.set_aside(unknown, HeldFor.UNKNOWN)

    # What was claimed, and is not to be started here or now

    def stale_at(self) -> float | None:
        """When what waits for a thread will have waited too long; None: nothing waits."""
        since = self._pool.waiting_since()
        return None if since is None else since + self._patience

    def release_stale(self) -> None:
        stale_at = self.stale_at()
        if stale_at is not None and time.monotonic() > stale_at:
            # Or the same would be claimed again, and kept from others as long as these run.
            self._pool.learn(self._patience)
            self._in_flight_tasks.release(self._pool.withdraw())

    def _withdraw_blocked(self, snapshot: QueueSnapshot) -> None:
        """Pauses and holds bind the unstarted too."""
        if not snapshot.paused and not snapshot.on_hold:
            return
        stopped = self._pool.withdraw(
            keep=lambda task: (
                task.queue not in snapshot.paused and task.task_name not in snapshot.on_hold
            )
        )
        self._in_flight_tasks.drop(stopped)
        on_hold = [task for task in stopped if task.task_name in snapshot.on_hold]
        self._in_flight_tasks.set_aside(on_hold, HeldFor.TYPE)
        self._in_flight_tasks.release(
            [task for task in stopped if task.task_name not in snapshot.on_hold]
        )
