"""A claim takes the most pressing ready tasks of one queue, and nobody else gets them."""

from __future__ import annotations

import random
import threading
from collections import Counter
from datetime import timedelta

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone

from bgtask.db import DatabaseNow, operations_for
from bgtask.lifecycle.claim import (
    claim_notified,
    claim_queue,
    claim_suspect,
    claim_these,
    take_snapshot,
)
from bgtask.models import Task, Worker
from bgtask.status import Status
from tests.factories import HoldFactory, PauseFactory, TaskFactory, WorkerFactory
from tests.threads import all_at_once

pytestmark = pytest.mark.django_db


def ids(tasks):
    return [task.pk for task in tasks]


def seconds_between(start, end):
    return (end - start).total_seconds()


class TestOrder:
    def test_by_priority_then_run_at_then_id(self):
        later = timezone.now() - timedelta(seconds=30)
        noon = later - timedelta(seconds=1)
        last = TaskFactory(priority=-5, run_at=noon)
        fourth = TaskFactory(priority=0, run_at=later)
        second = TaskFactory(priority=0, run_at=noon)
        third = TaskFactory(priority=0, run_at=noon)
        first = TaskFactory(priority=7, run_at=later)

        claimed = claim_queue(WorkerFactory(), "default", 10)

        assert ids(claimed) == ids([first, second, third, fourth, last])

    def test_one_claim_goes_on_where_the_last_one_ended(self):
        dice = random.Random(1)
        tasks = [TaskFactory(priority=dice.randint(-2, 2)) for _ in range(12)]
        expected = ids(sorted(tasks, key=lambda task: (-task.priority, task.run_at, task.pk)))
        worker = WorkerFactory()

        claims = [ids(claim_queue(worker, "default", 5)) for _ in range(4)]

        assert claims == [expected[:5], expected[5:10], expected[10:], []]


class TestChoice:
    @pytest.mark.parametrize("limit", [1, 2, 3])
    def test_takes_no_more_than_it_was_asked_for(self, limit):
        TaskFactory.create_batch(4)

        claimed = claim_queue(WorkerFactory(), "default", limit)

        assert len(claimed) == limit
        assert Task.objects.running().count() == limit

    @pytest.mark.parametrize("nothing", [Task.objects.none, lambda: Task.objects.filter(pk__in=[])])
    def test_of_nothing_is_nothing(self, nothing):
        TaskFactory()
        TaskFactory(status=Status.SCHEDULED, run_at=DatabaseNow(-1))

        assert claim_these(nothing().ready(), WorkerFactory()) == []
        assert operations_for(connection).promote(nothing().scheduled()) == 0
        assert claim_queue(WorkerFactory(), "default", 0) == []
        assert claim_suspect(WorkerFactory(), queues=[]) == []
        assert take_snapshot([]).heads == []
        assert set(Task.objects.values_list("status", flat=True)) == {"READY", "SCHEDULED"}

    def test_takes_from_its_queue_only_and_compares_it_to_the_letter(self):
        mine = TaskFactory(queue="mail")
        for other in ("Mail", "mail2", "mai", "default"):
            TaskFactory(queue=other)

        claimed = claim_queue(WorkerFactory(), "mail", 10)

        assert ids(claimed) == [mine.pk]

    def test_leaves_suspects_to_a_claim_of_their_own(self):
        suspect = TaskFactory(crashes=1, priority=9)
        innocent = TaskFactory()

        claimed = claim_queue(WorkerFactory(), "default", 10)

        assert ids(claimed) == [innocent.pk]
        assert ids(claim_suspect(WorkerFactory())) == [suspect.pk]

    @pytest.mark.parametrize("status", sorted(set(Status) - {Status.READY}))
    def test_takes_nothing_but_what_is_ready(self, status):
        TaskFactory(status=status, run_at=DatabaseNow(-60))

        assert claim_queue(WorkerFactory(), "default", 10) == []

    def test_a_floor_leaves_what_is_less_pressing(self):
        TaskFactory(priority=1)
        wanted = [TaskFactory(priority=3), TaskFactory(priority=2)]

        claimed = claim_queue(WorkerFactory(), "default", 10, floor=2)

        assert ids(claimed) == ids(wanted)

    def test_a_hint_begins_behind_the_task_that_was_claimed_last(self):
        TaskFactory.create_batch(4)
        worker = WorkerFactory()
        expected = ids(Task.objects.claimable("default"))
        last = claim_queue(worker, "default", 2)[-1]
        forgotten = TaskFactory(run_at=DatabaseNow(-3600))

        claimed = claim_queue(worker, "default", 10, after=last.claim_key)

        assert ids(claimed) == expected[2:]
        assert ids(claim_queue(worker, "default", 10)) == [forgotten.pk]

    def test_a_hint_passes_over_nothing_that_was_enqueued_at_the_same_moment(self):
        Task.objects.enqueue_many("tests.tasks.noop", (([n], {}) for n in range(6)))
        worker = WorkerFactory()
        expected = ids(Task.objects.claimable("default"))
        last = claim_queue(worker, "default", 2)[-1]

        claimed = claim_queue(worker, "default", 10, after=last.claim_key)

        assert ids(claimed) == expected[2:]

    def test_a_hint_stays_at_its_priority(self):
        TaskFactory(priority=5)
        same = TaskFactory(priority=5)
        TaskFactory(priority=4)
        worker = WorkerFactory()
        last = claim_queue(worker, "default", 1)[-1]

        claimed = claim_queue(worker, "default", 10, after=last.claim_key)

        assert ids(claimed) == [same.pk]


@pytest.mark.vendor("postgresql")
class TestNews:
    """A claim by who was told that something was enqueued, and has not looked around."""

    def test_takes_the_same_as_any_other_claim(self):
        dice = random.Random(2)
        for _ in range(12):
            TaskFactory(priority=dice.randint(-2, 2), queue=dice.choice(["mail", "Mail"]))
        TaskFactory(queue="mail", crashes=1, priority=9)
        TaskFactory(queue="mail", status=Status.SCHEDULED)
        expected = ids(Task.objects.claimable("mail"))
        worker = WorkerFactory()

        first = claim_notified(worker, "mail", 2)
        rest = claim_notified(worker, "mail", 10)

        assert ids(first) + ids(rest) == expected
        assert {(task.status, task.attempts) for task in first} == {("RUNNING", 1)}
        assert {row.pk: row.token for row in Task.objects.running()} == {
            task.pk: task.token for task in first + rest
        }
        assert min(task.token for task in first + rest) > 0
        assert set(Task.objects.running().values_list("locked_by", flat=True)) == {worker.pk}

    def test_takes_nothing_of_a_paused_queue(self):
        PauseFactory(queue="mail")
        TaskFactory(queue="mail")

        assert claim_notified(WorkerFactory(), "mail", 10) == []

    def test_leaves_what_is_on_hold(self):
        HoldFactory(task_name="poison")
        TaskFactory(task_name="poison", priority=9)
        fine = TaskFactory(task_name="fine")

        claimed = claim_notified(WorkerFactory(), "default", 10)

        assert ids(claimed) == [fine.pk]

    def test_a_pause_or_a_hold_that_is_over_stops_nothing(self):
        PauseFactory(queue="mail", expires_at=DatabaseNow(-1))
        HoldFactory(task_name="poison", expires_at=DatabaseNow(-1))
        task = TaskFactory(queue="mail", task_name="poison")

        assert ids(claim_notified(WorkerFactory(), "mail", 10)) == [task.pk]


class TestSuspects:
    def test_are_claimed_one_at_a_time_the_least_suspect_first(self):
        twice = TaskFactory(crashes=2, priority=9)
        once = TaskFactory(crashes=1)
        worker = WorkerFactory()

        claims = [ids(claim_suspect(worker)) for _ in range(3)]

        assert claims == [[once.pk], [twice.pk], []]

    def test_only_of_the_wanted_queues_that_are_not_paused(self):
        TaskFactory(crashes=1, queue="other")
        TaskFactory(crashes=1, queue="paused")
        wanted = TaskFactory(crashes=1, queue="mail")

        claimed = claim_suspect(WorkerFactory(), queues=["mail", "paused"], paused=["paused"])

        assert ids(claimed) == [wanted.pk]


class TestRow:
    def test_says_who_holds_it_since_when_and_until_when(self):
        task = TaskFactory(token=4, attempts=2)
        worker = WorkerFactory()

        (claimed,) = claim_queue(worker, "default", 1)

        task.refresh_from_db()
        assert task.status == Status.RUNNING
        assert task.locked_by == worker
        assert task.last_worker == worker.label
        assert 4 < task.token == claimed.token
        assert task.attempts == 3
        assert Task.objects.filter(
            locked_at__gt=DatabaseNow(-60), locked_at__lte=DatabaseNow(), started_at=None
        ).exists()

    def test_the_worker_is_told_what_the_row_says(self):
        TaskFactory(token=4, attempts=2, queue="mail", priority=3, max_attempts=9, max_run_time=7)
        worker = WorkerFactory()

        (claimed,) = claim_queue(worker, "mail", 1)

        row = Task.objects.get()
        told = {name: value for name, value in vars(claimed).items() if not name.startswith("_")}
        of_claim = ("waited", "claim_key", "unconverted")
        known = {name: value for name, value in told.items() if name not in of_claim}
        assert known == {name: getattr(row, name) for name in known}
        assert {"task_name", "task_params", "token", "attempts", "max_attempts"} <= known.keys()
        assert 59 < claimed.waited < 60 + 300

    @pytest.mark.parametrize(("own", "expected"), [(None, 120), (7.5, 7.5), (86_400.0, 86_400)])
    def test_the_deadline_is_the_tasks_own_or_else_that_of_the_settings(
        self, settings, own, expected
    ):
        settings.MAX_RUN_TIME = 120
        task = TaskFactory(max_run_time=own)

        claim_queue(WorkerFactory(), "default", 1)

        task.refresh_from_db()
        # SQLite may have read its clock twice, a millisecond apart.
        assert seconds_between(task.locked_at, task.deadline_at) == pytest.approx(expected, abs=0.1)

    @pytest.mark.parametrize("broken", ["", "{", "[1]", "null", "[[], {}]" * 2, "\u2028ü😀"])
    def test_parameters_that_cannot_be_read_disturb_nobody(self, broken):
        tasks = [TaskFactory(), TaskFactory(task_params=broken), TaskFactory()]

        claimed = claim_queue(WorkerFactory(), "default", 10)

        assert ids(claimed) == ids(tasks)
        assert [task.task_params for task in claimed] == ["[[], {}]", broken, "[[], {}]"]


@pytest.mark.django_db(transaction=True)
class TestMany:
    WORKERS = 8
    EACH = 1_000

    def test_workers_at_once_share_the_tasks_and_no_two_get_the_same(self):
        number = self.WORKERS * self.EACH
        Task.objects.enqueue_many("tests.tasks.noop", (([n], {}) for n in range(number)))
        workers = [Worker.register() for _ in range(self.WORKERS)]

        def claim_until_empty(worker, batch):
            mine = []
            # An empty claim may only mean that others hold locks on what is left.
            while Task.objects.ready().exists():
                claimed = claim_queue(worker, "default", batch)
                assert len(claimed) <= batch
                mine += [(task.pk, task.token) for task in claimed]
            return mine

        claims = all_at_once(
            *(
                lambda worker=worker, batch=batch: claim_until_empty(worker, batch)
                for worker, batch in zip(workers, (1, 2, 3, 5, 8, 13, 21, 34), strict=True)
            )
        )

        counted = Counter(key for mine in claims for key in mine)
        assert len(counted) == number
        assert set(counted.values()) == {1}
        assert set(Task.objects.values_list("status", "attempts")) == {("RUNNING", 1)}
        for worker, mine in zip(workers, claims, strict=True):
            held = Task.objects.filter(locked_by=worker).values_list("pk", "token")
            assert set(held) == set(mine)

    @pytest.mark.vendor("postgresql", "mysql")
    def test_a_locked_row_is_passed_over_not_waited_for(self):
        locked, *free = TaskFactory.create_batch(3)
        holds, done = threading.Event(), threading.Event()

        def lock_the_first():
            with transaction.atomic():
                Task.objects.select_for_update().get(pk=locked.pk)
                holds.set()
                assert done.wait(60)

        def claim():
            assert holds.wait(60)
            try:
                return ids(claim_queue(WorkerFactory(), "default", 10))
            finally:
                done.set()

        _, claimed = all_at_once(lock_the_first, claim)

        assert claimed == ids(free)
        assert ids(claim_queue(WorkerFactory(), "default", 10)) == [locked.pk]

    @pytest.mark.vendor("mysql")
    def test_nor_is_it_where_the_statistics_say_that_hardly_any_is_ready(self, analyzed):
        Task.objects.enqueue_many("tests.tasks.noop", (([n], {}) for n in range(5_000)))
        analyzed()
        Task.objects.all()._raw_delete("default")
        self.test_a_locked_row_is_passed_over_not_waited_for()

    @pytest.fixture
    def analyzed(self):
        def analyze():
            with connection.cursor() as cursor:
                cursor.execute("ANALYZE TABLE bgtask_task")
                cursor.fetchall()

        yield analyze
        Task.objects.all().delete()
        analyze()

    @pytest.mark.vendor("sqlite")
    def test_a_claim_leaves_no_lock_behind(self):
        TaskFactory.create_batch(3)

        claim_queue(WorkerFactory(), "default", 1)

        def write_without_waiting():
            with connections["default"].cursor() as cursor:
                cursor.execute("PRAGMA busy_timeout = 0")
            return Task.objects.ready().update(priority=1)

        assert all_at_once(write_without_waiting) == [2]

    def test_a_claim_in_a_transaction_that_is_rolled_back_took_nothing(self):
        TaskFactory()
        worker = WorkerFactory()

        with transaction.atomic():
            assert claim_queue(worker, "default", 1)
            transaction.set_rollback(True)

        assert Task.objects.values_list("status", "token", "attempts").get() == ("READY", 0, 0)
