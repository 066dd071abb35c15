"""
Test that a claim takes the most pressing ready tasks of a queue for one worker alone.

The module is long because all ways to claim must agree on order, limits and locks.
"""

from __future__ import annotations

import random
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
from tests.bgtask.lifecycle.locks import locked_by_another
from tests.factories import HoldFactory, PauseFactory, TaskFactory, WorkerFactory
from tests.threads import all_at_once

pytestmark = pytest.mark.django_db


def ids(tasks):
    return [task.pk for task in tasks]


def seconds_between(start, end):
    return (end - start).total_seconds()


class TestOrder:
    @pytest.mark.parametrize("limit", [1, 10])
    def test_claims_are_ordered_by_priority_run_at_and_id(self, limit):
        later = timezone.now() - timedelta(seconds=30)
        noon = later - timedelta(seconds=1)
        last = TaskFactory(priority=-5, run_at=noon)
        fourth = TaskFactory(priority=0, run_at=later)
        second = TaskFactory(priority=0, run_at=noon)
        third = TaskFactory(priority=0, run_at=noon)
        first = TaskFactory(priority=7, run_at=later)

        worker = WorkerFactory()
        claimed = [task for _ in range(5) for task in claim_queue(worker, "default", limit)]

        assert ids(claimed) == ids([first, second, third, fourth, last])

    def test_claim_continues_behind_the_previous_one(self):
        dice = random.Random(1)
        tasks = [TaskFactory(priority=dice.randint(-2, 2)) for _ in range(12)]
        expected = ids(sorted(tasks, key=lambda task: (-task.priority, task.run_at, task.pk)))
        worker = WorkerFactory()

        claims = [ids(claim_queue(worker, "default", 5)) for _ in range(4)]

        assert claims == [expected[:5], expected[5:10], expected[10:], []]


class TestChosenTasks:
    @pytest.mark.parametrize("limit", [1, 2, 3])
    def test_claim_respects_its_limit(self, limit):
        TaskFactory.create_batch(4)

        claimed = claim_queue(WorkerFactory(), "default", limit)

        assert len(claimed) == limit
        assert Task.objects.running().count() == limit

    @pytest.mark.parametrize("nothing", [Task.objects.none, lambda: Task.objects.filter(pk__in=[])])
    def test_claim_with_limit_zero_returns_nothing(self, nothing):
        TaskFactory()
        TaskFactory(status=Status.SCHEDULED, run_at=DatabaseNow(-1))

        assert claim_these(nothing().ready(), WorkerFactory()) == []
        assert operations_for(connection).promote(nothing().scheduled()) == 0
        assert claim_queue(WorkerFactory(), "default", 0) == []
        assert claim_suspect(WorkerFactory(), queues=[]) == []
        assert take_snapshot([]).heads == []
        assert set(Task.objects.values_list("status", flat=True)) == {"READY", "SCHEDULED"}

    def test_claim_matches_the_name_of_the_queue_exactly(self):
        mine = TaskFactory(queue="mail")
        for other in ("Mail", "mail2", "mai", "default"):
            TaskFactory(queue=other)

        claimed = claim_queue(WorkerFactory(), "mail", 10)

        assert ids(claimed) == [mine.pk]

    def test_ordinary_claim_skips_suspects(self):
        suspect = TaskFactory(crashes=1, priority=9)
        innocent = TaskFactory()

        claimed = claim_queue(WorkerFactory(), "default", 10)

        assert ids(claimed) == [innocent.pk]
        assert ids(claim_suspect(WorkerFactory())) == [suspect.pk]

    @pytest.mark.parametrize("status", sorted(set(Status) - {Status.READY}))
    def test_claim_takes_ready_tasks_only(self, status):
        TaskFactory(status=status, run_at=DatabaseNow(-60))

        assert claim_queue(WorkerFactory(), "default", 10) == []

    def test_claim_with_a_floor_skips_lower_priorities(self):
        TaskFactory(priority=1)
        wanted = [TaskFactory(priority=3), TaskFactory(priority=2)]

        claimed = claim_queue(WorkerFactory(), "default", 10, floor=2)

        assert ids(claimed) == ids(wanted)

    def test_claim_with_a_cursor_begins_behind_the_last_claimed_task(self):
        TaskFactory.create_batch(4)
        worker = WorkerFactory()
        expected = ids(Task.objects.claimable("default"))
        last = claim_queue(worker, "default", 2)[-1]
        forgotten = TaskFactory(run_at=DatabaseNow(-3600))

        claimed = claim_queue(worker, "default", 10, after=last.claim_key)

        assert ids(claimed) == expected[2:]
        assert ids(claim_queue(worker, "default", 10)) == [forgotten.pk]

    def test_claim_with_a_cursor_skips_no_task_enqueued_at_the_same_moment(self):
        Task.objects.enqueue_many("tests.tasks.noop", (([n], {}) for n in range(6)))
        worker = WorkerFactory()
        expected = ids(Task.objects.claimable("default"))
        last = claim_queue(worker, "default", 2)[-1]

        claimed = claim_queue(worker, "default", 10, after=last.claim_key)

        assert ids(claimed) == expected[2:]

    def test_claim_with_a_cursor_stays_at_its_priority(self):
        TaskFactory(priority=5)
        same = TaskFactory(priority=5)
        TaskFactory(priority=4)
        worker = WorkerFactory()
        last = claim_queue(worker, "default", 1)[-1]

        claimed = claim_queue(worker, "default", 10, after=last.claim_key)

        assert ids(claimed) == [same.pk]


@pytest.mark.vendor("postgresql")
class TestNotifiedClaim:
    """Test the claim after a notification, which takes no snapshot first."""

    def test_notified_claim_takes_the_same_tasks_as_another_claim(self):
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

    def test_notified_claim_skips_paused_queues(self):
        PauseFactory(queue="mail")
        TaskFactory(queue="mail")

        assert claim_notified(WorkerFactory(), "mail", 10) == []

    def test_notified_claim_skips_task_types_on_hold(self):
        HoldFactory(task_name="poison")
        TaskFactory(task_name="poison", priority=9)
        fine = TaskFactory(task_name="fine")

        claimed = claim_notified(WorkerFactory(), "default", 10)

        assert ids(claimed) == [fine.pk]

    def test_expired_pauses_and_holds_have_no_effect(self):
        PauseFactory(queue="mail", expires_at=DatabaseNow(-1))
        HoldFactory(task_name="poison", expires_at=DatabaseNow(-1))
        task = TaskFactory(queue="mail", task_name="poison")

        assert ids(claim_notified(WorkerFactory(), "mail", 10)) == [task.pk]


class TestSuspects:
    def test_suspects_are_claimed_one_at_a_time_with_the_fewest_crashes_first(self):
        twice = TaskFactory(crashes=2, priority=9)
        once = TaskFactory(crashes=1)
        worker = WorkerFactory()

        claims = [ids(claim_suspect(worker)) for _ in range(3)]

        assert claims == [[once.pk], [twice.pk], []]

    def test_suspects_are_claimed_from_the_given_queues_that_are_not_paused(self):
        # In the order of the claim, the wanted task is the last of them.
        TaskFactory(crashes=1, queue="another")
        TaskFactory(crashes=1, queue="halted")
        wanted = TaskFactory(crashes=1, queue="mail")

        claimed = claim_suspect(WorkerFactory(), queues=["mail", "halted"], paused=["halted"])

        assert ids(claimed) == [wanted.pk]


class TestRow:
    def test_claimed_row_names_its_worker_its_start_and_its_deadline(self):
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

    def test_claimed_task_has_the_values_of_its_row(self):
        TaskFactory(token=4, attempts=2, queue="mail", priority=3, max_attempts=9, max_run_time=7)
        worker = WorkerFactory()

        (claimed,) = claim_queue(worker, "mail", 1)

        row = Task.objects.get()
        told = {name: value for name, value in vars(claimed).items() if not name.startswith("_")}
        of_claim = ("waited", "claim_key", "returned")
        known = {name: value for name, value in told.items() if name not in of_claim}
        assert known == {name: getattr(row, name) for name in known}
        assert {"task_name", "task_params", "token", "attempts", "max_attempts"} <= known.keys()
        assert 59 < claimed.waited < 60 + 300

    @pytest.mark.parametrize(("own", "expected"), [(None, 120), (7.5, 7.5), (86_400.0, 86_400)])
    def test_deadline_follows_the_task_or_the_setting(self, settings, own, expected):
        settings.MAX_RUN_TIME = 120
        task = TaskFactory(max_run_time=own)

        claim_queue(WorkerFactory(), "default", 1)

        task.refresh_from_db()
        # SQLite may have read its clock twice, a millisecond apart.
        assert seconds_between(task.locked_at, task.deadline_at) == pytest.approx(expected, abs=0.1)

    @pytest.mark.parametrize("broken", ["", "{", "[1]", "null", "[[], {}]" * 2, "\u2028ü😀"])
    def test_malformed_parameters_do_not_fail_a_claim(self, broken):
        tasks = [TaskFactory(), TaskFactory(task_params=broken), TaskFactory()]

        claimed = claim_queue(WorkerFactory(), "default", 10)

        assert ids(claimed) == ids(tasks)
        assert [task.task_params for task in claimed] == ["[[], {}]", broken, "[[], {}]"]


@pytest.mark.django_db(transaction=True)
class TestConcurrentClaims:
    WORKERS = 8
    EACH = 1_000

    def test_concurrent_workers_claim_different_tasks(self):
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
    def test_claim_skips_locked_rows_without_waiting(self):
        locked, *free = TaskFactory.create_batch(3)

        with locked_by_another(locked):
            claimed = ids(claim_queue(WorkerFactory(), "default", 10))

        assert claimed == ids(free)
        assert ids(claim_queue(WorkerFactory(), "default", 10)) == [locked.pk]

    @pytest.mark.vendor("mysql")
    def test_claim_skips_locked_rows_if_the_statistics_expect_few_ready_rows(self, analyzed):
        Task.objects.enqueue_many("tests.tasks.noop", (([n], {}) for n in range(5_000)))
        analyzed()
        Task.objects.all()._raw_delete("default")
        self.test_claim_skips_locked_rows_without_waiting()

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
    def test_claim_leaves_no_lock(self):
        TaskFactory.create_batch(3)

        claim_queue(WorkerFactory(), "default", 1)

        def write_without_waiting():
            with connections["default"].cursor() as cursor:
                cursor.execute("PRAGMA busy_timeout = 0")
            return Task.objects.ready().update(priority=1)

        assert all_at_once(write_without_waiting) == [2]

    def test_rolled_back_claim_has_no_effect(self):
        TaskFactory()
        worker = WorkerFactory()

        with transaction.atomic():
            assert claim_queue(worker, "default", 1)
            transaction.set_rollback(True)

        assert Task.objects.values_list("status", "token", "attempts").get() == ("READY", 0, 0)
