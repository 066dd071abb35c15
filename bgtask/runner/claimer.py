"""What to take next: look what there is, claim the most pressing, hand it out or put it aside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from bgtask import registry
from bgtask.conf import get_settings
from bgtask.dialects import MOST_HEADS, Head, Outlook
from bgtask.models import Task, Worker
from bgtask.runner.hand import Hand
from bgtask.runner.heads import Heads
from bgtask.runner.hints import Hints
from bgtask.runner.pool import Pool
from bgtask.runner.suspects import Suspects
from bgtask.status import HeldFor

PATIENCE = 1.0  # Seconds that a claimed task may wait for a thread before it is released.
FRESH, STALE = 0.05, 1.0  # Seconds that a look serves, while each claim is filled: from, to …
MOST_SERVED = 2 * MOST_HEADS  # Queues that are remembered as served.
MOST_LEFT = 500  # Heads that are remembered where there are more queues than one look reads.
LOOKING = 0.1  # … depending on what it took, for this is the share of time that may go into it.


class Claimer:
    """
    ``queues`` None serves all. ``news`` names the queues that were heard of since it was asked
    before; ``on_look`` is told at each look in how many seconds the next task is due, if any is.
    """

    _worker: Worker  # For whom. Declared dead, it is followed by another.

    def __init__(
        self,
        queues: Sequence[str] | None,
        hand: Hand,
        pool: Pool,
        suspects: Suspects,
        *,
        news: Callable[[], set[str]],
        on_look: Callable[[float | None], None],
    ) -> None:
        self._queues = queues
        self._hand = hand
        self._pool = pool
        self._suspects = suspects
        self._news = news
        self._on_look = on_look
        self._hints = Hints()
        self._round = 0
        self._served: dict[str, int] = {}  # The round in which a queue was served last.
        self._seen: tuple[Outlook, Heads] | None = None
        self._seen_until = 0.0
        self._after = ""  # The queue behind which to look next.
        self._left: list[Head] = []  # The most pressing heads of the looks before, if it is one.
        self._patience = PATIENCE

    def look(self, after: str = "") -> Outlook:
        """What there is to do; what must not be started is put aside at once."""
        outlook = Task.objects.outlook(self._queues, after, MOST_HEADS)
        if outlook.next_due is not None and outlook.next_due <= 0:
            Task.objects.promote()
            outlook = Task.objects.outlook(self._queues, after, MOST_HEADS)
        self._on_look(outlook.next_due)
        self._withdraw_stopped(outlook)
        return outlook

    def sees_anything(self) -> bool:
        """Is there anything to claim, now, in the queues that are served?"""
        after = ""
        while True:
            outlook = self.look(after)
            queues = {head.queue for head in outlook.heads} | self._served_here(outlook.suspects)
            if queues - outlook.paused:
                return True
            if not outlook.last:
                return False
            after = outlook.last

    def claim(self, worker: Worker, wanted: int) -> int:
        """Claim so many, hand them to the pool or put them aside; return how many there were."""
        self._worker = worker
        self._round += 1
        claimed = self._claim_news(wanted) or self._claim_seen(wanted)
        if not claimed and not self._hand:
            self._hints.clear()
        return claimed

    def _claim_seen(self, wanted: int) -> int:
        """By what was seen just now, else or where that is not enough by a new look."""
        just_now = wanted > 0 and time.monotonic() < self._seen_until
        seen, self._seen = self._seen if just_now else None, None
        claimed = 0 if seen is None else self._claim_by(*seen, wanted)
        if seen is None or claimed < wanted:
            claimed += self._claim_looking(wanted - claimed)
        elif not seen[0].suspects or seen[1].are_many:
            self._seen = seen
        return claimed

    def _claim_looking(self, wanted: int) -> int:
        """Look, and claim; where there are more queues than one look reads, until all were seen."""
        claimed = 0
        is_complete = False
        while True:
            is_complete |= not self._after
            began = time.monotonic()
            outlook = self.look(self._after)
            now = time.monotonic()
            # While somebody holds an old snapshot it steps over all that was claimed since.
            self._seen_until = now + min(max((now - began) / LOOKING, FRESH), STALE)
            # Beside the most pressing heads of the looks before, unless this one read all queues.
            left = self._left if self._after or outlook.last else []
            by_queue = {head.queue: head for head in (*left, *outlook.heads)}
            heads = Heads(
                [head for queue, head in by_queue.items() if queue not in outlook.paused],
                start=self._worker.pk,  # A random number.
            )
            claimed += self._claim_by(outlook, heads, wanted - claimed)
            self._left = heads.most_pressing(MOST_LEFT) if self._after or outlook.last else []
            self._after = outlook.last
            if claimed >= wanted:
                if not outlook.suspects or heads.are_many:
                    self._seen = outlook, heads
                return claimed
            if is_complete and not self._after:
                return claimed

    def _claim_news(self, wanted: int) -> int:
        """With nothing at all to do, and told of one queue: there, before looking anywhere."""
        news = self._news()
        if not wanted or self._hand or self._seen is not None or len(news) != 1 or "" in news:
            return 0
        tasks = Task.objects.claim_news(self._worker, news.pop(), wanted)
        self._accept(tasks, Outlook())
        time.sleep(0)  # The threads first, and then the look for more.
        return len(tasks)

    def _claim_by(self, outlook: Outlook, heads: Heads, wanted: int) -> int:
        """Queue by queue, or the heads of many at once, the most pressing first."""
        if self._suspects.want_room(
            waiting=bool(self._served_here(outlook.suspects - outlook.paused)),
            idle=not heads and not outlook.last and not self._hand,
        ):
            return self._claim_suspect(outlook) if not self._hand else 0
        claimed = 0
        while wanted > 0 and (chosen := heads.choose(wanted, self._served)):
            if len(chosen) > 1:
                tasks = Task.objects.claim_heads(self._worker, chosen, wanted)
                self._serve(task.queue for task in tasks)
                self._accept(tasks, outlook)
                heads.claimed(chosen, tasks, wanted)
            else:
                floor = heads.floor_below(chosen[0])
                self._serve([chosen[0].queue])
                tasks = self._claim_from(chosen[0].queue, wanted, floor, outlook)
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
        self, queue: str, wanted: int, floor: int | None, outlook: Outlook
    ) -> list[Task]:
        hint = self._hints.get(queue)
        tasks = Task.objects.claim(self._worker, queue, wanted, hint, floor)
        self._accept(tasks, outlook)
        if hint is not None and len(tasks) < wanted:
            self._hints.drop(queue)
            more = Task.objects.claim(self._worker, queue, wanted - len(tasks), None, floor)
            self._accept(more, outlook)
            tasks += more
        if len(tasks) == wanted:
            self._hints.note(queue, tasks[-1].claim_key)
        else:
            self._hints.drop(queue)
        return tasks

    def _claim_suspect(self, outlook: Outlook) -> int:
        tasks = Task.objects.claim_suspect(self._worker, self._queues, outlook.paused)
        self._suspects.claimed(bool(tasks))
        self._accept(tasks, outlook)
        return len(tasks)

    def _served_here(self, queues: frozenset[str]) -> frozenset[str]:
        return queues if self._queues is None else queues & frozenset(self._queues)

    def _accept(self, tasks: list[Task], outlook: Outlook) -> None:
        """Hand out what may be started, and put aside what may not."""
        if not tasks:
            return
        self._hand.take(tasks)
        startable, on_hold, unknown = [], [], []
        for task in tasks:
            if task.task_name in outlook.on_hold:
                on_hold.append(task)
            elif registry.knows(task.task_name) or not isinstance(task.task_name, str):
                startable.append(task)
            else:
                unknown.append(task)
        # All of them first: where the database fails, what is neither in hand nor handed out is
        # found by reconciling, and what is startable must not wait for the rest.
        self._hand.forget([*on_hold, *unknown])
        if startable:
            # The settings are read once: to do so for each task would take as long as its claim.
            own = [task.seconds_allowed for task in startable if task.max_run_time is not None]
            shortest = min(own, default=get_settings().max_run_time)
            self._patience = min(PATIENCE, shortest / 4)
            self._pool.submit(startable)
        elif not self._hand:
            self._suspects.alone = False
        self._hand.park(on_hold, HeldFor.TYPE)
        self._hand.park(unknown, HeldFor.UNKNOWN)

    # What was claimed, and is not to be started here or now

    def stale_at(self) -> float | None:
        """When what waits for a thread will have waited too long; None: nothing waits."""
        since = self._pool.waiting_since()
        return None if since is None else since + self._patience

    def give_back_stale(self) -> None:
        stale_at = self.stale_at()
        if stale_at is not None and time.monotonic() > stale_at:
            # Or the same would be claimed again, and kept from others as long as these run.
            self._pool.learn(self._patience)
            self._hand.release(self._pool.withdraw())

    def _withdraw_stopped(self, outlook: Outlook) -> None:
        """Pauses and holds bind the unstarted too."""
        if not outlook.paused and not outlook.on_hold:
            return
        stopped = self._pool.withdraw(
            keep=lambda task: (
                task.queue not in outlook.paused and task.task_name not in outlook.on_hold
            )
        )
        self._hand.forget(stopped)
        on_hold = [task for task in stopped if task.task_name in outlook.on_hold]
        self._hand.park(on_hold, HeldFor.TYPE)
        self._hand.release([task for task in stopped if task.task_name not in outlook.on_hold])
