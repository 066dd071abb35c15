"""
Test how a worker chooses between queues, and that many queues cost no more than few.

The module is long because speed, order and limits of one choice belong together.
"""

from __future__ import annotations

import random

import pytest
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from bgtask.db import DatabaseNow, mysql
from bgtask.lifecycle.claim import claim_heads, take_snapshot
from bgtask.models import Task
from bgtask.status import HeldFor, Status
from bgtask.worker import claimer as claimer_module
from bgtask.worker.claim_order import FEW_QUEUES, IsolationGate
from bgtask.worker.claimer import Claimer
from bgtask.worker.in_flight import InFlightTasks
from bgtask.worker.pool import Pool
from tests.factories import HoldFactory, PauseFactory, TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db

NOOP = "tests.tasks.noop"
MANY = 300


class Claims:
    """A real claimer of a worker whose threads start nothing, and what it claimed, in order."""

    def __init__(self, queues=None):
        self.worker = WorkerFactory()
        self._pool = Pool(1, may_start=lambda: False, on_end=print, on_hungry=print)
        self._claimer = Claimer(
            queues,
            InFlightTasks(),
            self._pool,
            IsolationGate(),
            changed_queues=set,
            on_poll=lambda due: None,
        )

    def claim(self, wanted):
        self._claimer.claim(self.worker, wanted)
        return self._pool.withdraw()

    def until_empty(self, wanted):
        batches = []
        while batch := self.claim(wanted):
            assert len(batch) <= wanted
            batches.append(batch)
        return batches


def enqueue(priorities):
    """One task a queue: ``{queue: priority}``, or several of them, ``{queue: [3, 2]}``."""
    rows = [
        Task(
            task_name=NOOP,
            queue=queue,
            priority=one,
            run_at=DatabaseNow(-60),
            enqueued_at=DatabaseNow(-60),
        )
        for queue, some in priorities.items()
        for one in (some if isinstance(some, list) else [some])
    ]
    Task.objects.bulk_create(rows)


def names(number):
    return [f"tenant-{place}" for place in range(number)]


class TestStatements:
    """Kind of fault: a look and a claim for each queue, so time grew with its square."""

    @pytest.mark.parametrize("named", [False, True], ids=["all queues", "named queues"])
    def test_drain_of_many_queues_takes_few_statements(self, named):
        enqueue(dict.fromkeys(names(MANY), 0))
        claims = Claims(names(MANY) if named else None)

        with CaptureQueriesContext(connection) as asked:
            batches = claims.until_empty(100)

        assert [len(batch) for batch in batches] == [100, 100, 100]
        # MariaDB takes some more for a look, and three for a claim and its transaction.
        assert len(asked) <= (50 if connection.vendor == "mysql" else 15)

    def test_drain_with_many_priorities_takes_few_statements(self):
        enqueue({name: place for place, name in enumerate(names(MANY))})

        with CaptureQueriesContext(connection) as asked:
            batches = Claims().until_empty(100)

        assert [len(batch) for batch in batches] == [100, 100, 100]
        assert len(asked) <= (50 if connection.vendor == "mysql" else 15)

    def test_drain_of_queues_with_several_tasks_takes_few_statements(self):
        enqueue(dict.fromkeys(names(100), [0] * 3))

        with CaptureQueriesContext(connection) as asked:
            batches = Claims().until_empty(100)

        assert sum(map(len, batches)) == 300
        assert len(asked) <= (90 if connection.vendor == "mysql" else 20)

    @pytest.mark.vendor("mysql")
    def test_poll_of_long_queues_takes_a_limited_number_of_statements(self, monkeypatch):
        monkeypatch.setattr(mysql, "MOST_STEPS", 10)
        enqueue(dict.fromkeys(names(30), [0] * 3))

        with CaptureQueriesContext(connection) as asked:
            snapshot = take_snapshot()

        assert len(asked) == 11
        assert snapshot.last == snapshot.heads[-1].queue
        assert {head.queue for head in snapshot.heads} < set(names(30))


class TestOrder:
    @pytest.fixture(params=[5_000, 40], ids=["in one look", "in several looks"])
    def limit(self, request, monkeypatch):
        monkeypatch.setattr(claimer_module, "MOST_HEADS", request.param)
        return request.param

    @pytest.mark.parametrize("each", [1, 2, 5])
    def test_tasks_run_in_the_order_of_their_priorities(self, each):
        dice = random.Random(each)
        enqueue({name: [dice.randint(0, 9) for _ in range(each)] for name in names(60)})

        claimed = [task.priority for batch in Claims().until_empty(25) for task in batch]

        assert len(claimed) == 60 * each
        assert claimed == sorted(claimed, reverse=True)

    def test_rest_of_a_queue_comes_before_heads_with_lower_priority(self):
        enqueue({**dict.fromkeys(names(50), 1), "urgent": [9, 8, 7], "next": [9, 3, 0]})

        claimed = [task.priority for batch in Claims().until_empty(4) for task in batch]

        assert claimed == [9, 9, 8, 7, 3, *[1] * 50, 0]

    def test_every_queue_is_reached_in_turn(self, limit):
        """Kind of fault: queues beyond the limit of a look are never seen."""
        enqueue(dict.fromkeys(names(130), 0))

        batches = Claims().until_empty(20)

        assert sorted(task.queue for batch in batches for task in batch) == sorted(names(130))

    def test_pressing_queue_beyond_the_first_poll_is_served_within_one_round(self, limit):
        enqueue({**dict.fromkeys(names(130), [0] * 10), "zzz": [9] * 30})
        claims = Claims()

        claimed = []
        while len(claimed) < 200 and "zzz" not in {task.queue for task in claimed}:
            claims._claimer._cached_until = 0  # As if time had passed: a look for each claim.
            claimed += claims.claim(10)

        assert len(claimed) <= 10 * (131 // limit + 1 + 1)
        # And from then on before all others, wherever the next look begins.
        for _ in range(2):
            claims._claimer._cached_until = 0
            assert {task.queue for task in claims.claim(10)} == {"zzz"}

    def test_a_long_queue_does_not_starve_many_short_ones(self):
        enqueue({"newsletter": [0] * 500, **dict.fromkeys(names(40), 0)})

        first, second = (claims := Claims()).claim(50), claims.claim(50)

        assert set(names(40)) <= {task.queue for task in (*first, *second)}

    def test_many_short_queues_do_not_starve_a_long_one(self):
        enqueue({"newsletter": [0] * 50, **dict.fromkeys(names(40), [0] * 5)})
        claims = Claims()

        claimed = [task.queue for _ in range(5) for task in claims.claim(20)]

        assert "newsletter" in claimed

    def test_few_queues_get_full_batches_of_their_own(self):
        queues = names(FEW_QUEUES)
        enqueue(dict.fromkeys(queues, [0] * 40))
        claims = Claims()

        batches = [claims.claim(20) for _ in range(FEW_QUEUES)]

        assert [len({task.queue for task in batch}) for batch in batches] == [1] * FEW_QUEUES
        assert {batch[0].queue for batch in batches} == set(queues)


class TestLimits:
    """What must not be claimed is not, however it is claimed."""

    def test_paused_queues_are_left_alone(self):
        enqueue(dict.fromkeys(names(100), 0))
        for name in names(50):
            PauseFactory(queue=name)

        claimed = [task.queue for batch in Claims().until_empty(30) for task in batch]

        assert sorted(claimed) == sorted(set(names(100)) - set(names(50)))

    def test_many_paused_queues_hide_no_other_queue(self, monkeypatch):
        monkeypatch.setattr(claimer_module, "MOST_HEADS", 20)
        enqueue({**dict.fromkeys(names(50), 5), "zzz": 0})
        for name in names(50):
            PauseFactory(queue=name)
        claims = Claims()

        assert claims._claimer.has_claimable()
        assert [task.queue for task in claims.claim(10)] == ["zzz"]
        assert not claims._claimer.has_claimable()

    def test_suspects_of_paused_queues_hide_no_other_suspect(self):
        for name in names(110):
            PauseFactory(queue=name)
            TaskFactory(queue=name, crashes=1)
        TaskFactory(queue="zzz", crashes=1)

        assert [task.queue for task in Claims().claim(10)] == ["zzz"]

    def test_suspects_of_other_queues_hide_no_suspect_of_a_named_queue(self):
        for name in names(110):
            TaskFactory(queue=name, crashes=1)
        TaskFactory(queue="zzz", crashes=1)

        assert [task.queue for task in Claims(["zzz"]).claim(10)] == ["zzz"]

    def test_suspects_wait_while_other_tasks_are_ready(self):
        enqueue(dict.fromkeys(names(40), 0))
        suspect = TaskFactory(queue="tenant-7", crashes=1, priority=9)

        claimed = Claims().claim(100)

        assert len(claimed) == 40
        assert suspect not in claimed

    def test_tasks_of_types_on_hold_are_set_aside(self):
        enqueue(dict.fromkeys(names(40), 0))
        Task.objects.filter(queue__in=names(10)).update(task_name="tests.tasks.add")
        HoldFactory(task_name="tests.tasks.add")

        claimed = [task for batch in Claims().until_empty(100) for task in batch]

        assert len(claimed) == 30
        assert Task.objects.held().filter(held_for=HeldFor.TYPE).count() == 10

    def test_only_named_queues_are_served(self):
        enqueue(dict.fromkeys(names(60), 0))

        claimed = Claims(names(30)).claim(100)

        assert {task.queue for task in claimed} == set(names(30))


class TestHeads:
    @pytest.fixture
    def heads(self):
        enqueue({name: place for place, name in enumerate(names(12))})
        return sorted(take_snapshot().heads, key=lambda head: -head.priority)

    def test_snapshot_has_the_head_and_the_next_priority(self):
        enqueue({"one": [4], "two": [3, 5], "three": [1, 1, 7]})

        for queues in (None, ["one", "two", "three", "none"]):
            heads = {head.queue: head for head in take_snapshot(queues).heads}
            assert heads.keys() == {"one", "two", "three"}
            for head in heads.values():
                first, *others = Task.objects.claimable(head.queue)
                assert (head.id, head.priority) == (first.pk, first.priority)
                assert head.next == (others[0].priority if others else None)

    @pytest.mark.parametrize("limit", [1, 3, 11, 12, 13])
    def test_snapshots_continue_behind_each_other(self, heads, limit):
        seen, after = [], ""
        while True:
            snapshot = take_snapshot(None, after, limit)
            assert len(snapshot.heads) <= limit
            seen += [head.queue for head in snapshot.heads]
            after = snapshot.last
            if not after:
                break

        assert sorted(seen) == sorted(names(12))

    def test_heads_are_claimed_in_order_up_to_the_limit(self, heads):
        claimed = claim_heads(WorkerFactory(), heads, 5)

        assert [task.pk for task in claimed] == [head.id for head in heads[:5]]
        assert Task.objects.running().count() == 5
        assert set(Task.objects.running().values_list("attempts", flat=True)) == {1}

    @pytest.mark.parametrize(
        "change",
        [
            {"status": Status.HELD, "held_for": "operator"},
            {"status": Status.CANCELLED, "finished_at": DatabaseNow()},
            {"crashes": 1},
            {"queue": "elsewhere"},
            {"priority": F("priority") - 100},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_heads_that_changed_since_the_snapshot_are_skipped(self, heads, change):
        Task.objects.filter(pk=heads[1].id).update(**change)

        claimed = claim_heads(WorkerFactory(), heads, 3)

        assert [task.pk for task in claimed] == [heads[0].id, heads[2].id, heads[3].id]

    def test_heads_claimed_by_other_workers_are_skipped(self, heads):
        theirs = claim_heads(WorkerFactory(), heads[:3], 3)
        ours = claim_heads(WorkerFactory(), heads, 3)

        assert not {task.pk for task in ours} & {task.pk for task in theirs}
        assert [task.pk for task in ours] == [head.id for head in heads[3:6]]
