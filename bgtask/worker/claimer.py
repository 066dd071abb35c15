"""Choose what to claim next: poll, claim the most pressing tasks, submit or set them aside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from bgtask import clock
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
from bgtask.worker.claim_order import ClaimCursor, Heads, IsolationGate
from bgtask.worker.in_flight import InFlightTasks
from bgtask.worker.pool import Pool

# The longest that a claimed task waits for a thread before it is released.
MAX_CLAIM_WAIT_SECONDS = 1.0
# How long a snapshot is used for further claims, as long as each claim is filled.
MIN_SNAPSHOT_SECONDS, MAX_SNAPSHOT_SECONDS = 0.05, 1.0
MOST_SERVED = 2 * MOST_HEADS  # Queues that are remembered as served.
MOST_LEFT = 500  # Heads that are remembered if there are more queues than one poll reads.
# The share of time that polls may take. A snapshot that took longer to read is used for longer.
POLL_TIME_SHARE = 0.1


class Claimer:
    """
    The part of a worker that claims tasks, and submits them to the pool or sets them aside.

    If ``queues`` is None, all queues are served. ``changed_queues`` returns the queues that were
    notified since its last call. ``on_poll`` is called at each poll with the seconds until the
    next task is due.
    """

    _worker: Worker  # The worker that claims. If it is declared dead, a new one replaces it.

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
        self._after = ""  # The next poll reads the queues behind this name.
        # The most pressing heads of earlier polls, while one poll can't read all queues.
        self._left: list[Head] = []
        self._patience = MAX_CLAIM_WAIT_SECONDS

    def poll(self, after: str = "") -> QueueSnapshot:
        """
        Promote due tasks and return a snapshot of the queues behind ``after``.

        Unstarted tasks that a pause or a hold now blocks are withdrawn at once.
        """
        snapshot = take_snapshot(self._queues, after, MOST_HEADS)
        if snapshot.next_due is not None and snapshot.next_due <= 0:
            promote_due()
            snapshot = take_snapshot(self._queues, after, MOST_HEADS)
        self._on_poll(snapshot.next_due)
        self._withdraw_blocked(snapshot)
        return snapshot

    def has_claimable(self) -> bool:
        """Return whether there is anything to claim now in the queues that are served."""
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
        """
        Claim up to ``wanted`` tasks, and return how many were claimed.

        Each of them is submitted to the pool or set aside.
        """
        self._worker = worker
        self._round += 1
        claimed = self._claim_notified(wanted) or self._claim_from_snapshot(wanted)
        if not claimed and not self._in_flight_tasks:
            self._cursor.clear()
        return claimed

    def _claim_from_snapshot(self, wanted: int) -> int:
        """Claim by the cached snapshot; if there is none or it isn't enough, poll again."""
        just_now = wanted > 0 and clock.monotonic() < self._cached_until
        seen, self._cached_snapshot = self._cached_snapshot if just_now else None, None
        claimed = 0 if seen is None else self._claim_by(*seen, wanted)
        if seen is None or claimed < wanted:
            claimed += self._claim_looking(wanted - claimed)
        elif not seen[0].suspects or seen[1].are_many:
            self._cached_snapshot = seen
        return claimed

    def _claim_looking(self, wanted: int) -> int:
        """
        Poll and claim, and return how many tasks were claimed.

        If there are more queues than one poll reads, go on until all queues were read.
        """
        claimed = 0
        is_complete = False
        while True:
            is_complete |= not self._after
            began = clock.monotonic()
            snapshot = self.poll(self._after)
            now = clock.monotonic()
            # While another transaction holds an old snapshot of the database, a poll is slow. It
            # steps over the index entries of all tasks that were claimed since. So use the result
            # of a slow poll for longer.
            self._cached_until = now + min(
                max((now - began) / POLL_TIME_SHARE, MIN_SNAPSHOT_SECONDS), MAX_SNAPSHOT_SECONDS
            )
            # Add the most pressing heads of earlier polls, unless this poll read all queues.
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
        """
        If nothing is in flight and one queue was notified, claim from that queue without a poll.

        Return how many tasks were claimed.
        """
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
        time.sleep(0)  # Let the threads start before the next poll.
        return len(tasks)

    def _claim_by(self, snapshot: QueueSnapshot, heads: Heads, wanted: int) -> int:
        """
        Claim what the snapshot shows, the most pressing first; return how many were claimed.

        Claim queue by queue, or the heads of many queues by one statement. When it is the
        suspects' turn, claim one suspect instead, or nothing while other tasks are in flight.
        """
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
            self._served.pop(queue, None)  # Keep the dictionary in the order of service.
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
        """Submit the tasks that may start to the pool, and set the others aside."""
        if not tasks:
            return
        self._in_flight_tasks.add(tasks)
        startable, on_hold, unknown = sort_claims(tasks, snapshot.on_hold)
        # Drop all of these before the first statement. If the database fails, reconciling finds
        # the tasks that are neither in flight nor set aside. The startable tasks are submitted
        # first, so that they don't wait for the statements about the others.
        self._in_flight_tasks.drop([*on_hold, *unknown])
        if startable:
            # Read the settings once. Reading them for each task would take as long as its claim.
            own = [task.seconds_allowed for task in startable if task.max_run_time is not None]
            shortest = min(own, default=get_settings().max_run_time)
            self._patience = min(MAX_CLAIM_WAIT_SECONDS, shortest / 4)
            self._pool.submit(startable)
        elif not self._in_flight_tasks:
            self._isolation.running_exclusive = False
        self._in_flight_tasks.set_aside(on_hold, HeldFor.TYPE)
        self._in_flight_tasks.set_aside(unknown, HeldFor.UNKNOWN)

    # Claimed tasks that must not be started here or now

    def stale_at(self) -> float | None:
        """
        Return the time, on the monotonic clock, at which waiting tasks become stale.

        They have then waited too long for a thread. Return None if no task waits.
        """
        since = self._pool.waiting_since()
        return None if since is None else since + self._patience

    def release_stale(self) -> None:
        stale_at = self.stale_at()
        if stale_at is not None and clock.monotonic() > stale_at:
            # Report the wait as a slow run, so that the pool claims nothing ahead. Otherwise this
            # worker would claim the same tasks again. It would keep them from other workers for
            # as long as its threads are busy.
            self._pool.learn(self._patience)
            self._in_flight_tasks.release(self._pool.withdraw())

    def _withdraw_blocked(self, snapshot: QueueSnapshot) -> None:
        """Release unstarted tasks of paused queues, and set aside those of names on hold."""
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
