"""Test what each transition does to the unique key of its task, and that none fails on a key."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection

from bgtask.db import DatabaseNow
from bgtask.lifecycle.claim import claim_queue, release_claims
from bgtask.lifecycle.retention import Pruning
from bgtask.models import Task
from bgtask.status import FINISHED, TRANSITIONS, Status
from tests.bgtask.lifecycle.test_moves import WAYS, circumstances
from tests.factories import TaskFactory, WorkerFactory
from tests.threads import all_at_once

pytestmark = pytest.mark.django_db

KEY = "reindex:7"
HOLDS = {
    "while it runs": {"unique_while": "running"},
    "while it waits": {"unique_while": "waiting"},
    "for an hour": {"unique_while": "running", "unique_until": DatabaseNow(3600)},
    "for a time that is over": {"unique_while": "running", "unique_until": DatabaseNow(-1)},
}


def expected(verb, status, holds, held):
    """Return the key after this transition to this status, of a task that held the key or not."""
    if verb == "requeue":
        return KEY
    if verb == "claim" and holds == "while it waits":
        return None
    if status in FINISHED and holds != "for an hour":
        return None
    return held


@pytest.mark.parametrize("held", [KEY, None])
@pytest.mark.parametrize("holds", HOLDS)
@pytest.mark.parametrize("verb", TRANSITIONS)
def test_only_the_end_of_its_scope_clears_a_key_and_only_a_requeue_sets_it(verb, holds, held):
    changed = 0
    for way in WAYS[verb]:
        for status in sorted(TRANSITIONS[verb][0]):
            for fields in circumstances(status):
                task = TaskFactory(
                    status=status, unique_name=KEY, unique_key=held, **HOLDS[holds], **fields
                )
                way(task)
                after = Task.objects.get()
                if after.status != status:
                    changed += 1
                    assert after.unique_key == expected(verb, after.status, holds, held)
                else:
                    assert after.unique_key == held
                assert after.unique_name == KEY
                task.delete()
    assert changed


@pytest.mark.parametrize("verb", sorted(set(TRANSITIONS) - {"requeue"}))
def test_no_transition_fails_because_another_task_holds_the_name(verb):
    for way in WAYS[verb]:
        for status in sorted(TRANSITIONS[verb][0]):
            TaskFactory(status=Status.HELD, queue="other", unique_name=KEY, unique_key=KEY)
            task = TaskFactory(status=status, unique_name=KEY, unique_key=None)
            way(task)
            assert Task.objects.filter(unique_key=KEY).count() <= 1
            Task.objects.all().delete()


def test_a_waiting_key_that_was_given_up_is_not_taken_again():
    TaskFactory(unique_name=KEY, unique_key=KEY, unique_while="waiting")
    (task,) = claim_queue(WorkerFactory(), "default", 1)
    newer = TaskFactory(queue="other", unique_name=KEY, unique_key=KEY, unique_while="waiting")
    assert release_claims([task]) == 1
    assert Task.objects.get(unique_key=KEY) == newer


class TestRequeue:
    def test_a_task_whose_key_another_holds_is_left_as_it_is(self):
        task = TaskFactory(status=Status.FAILED, unique_name=KEY)
        holder = TaskFactory(unique_name=KEY, unique_key=KEY)
        plain = TaskFactory(status=Status.FAILED)

        result = Task.objects.requeue_and_report()

        assert result.number == 1
        assert result.kept == {task.pk: holder.pk}
        assert Task.objects.get(pk=task.pk).status == Status.FAILED
        assert Task.objects.get(pk=plain.pk).status == Status.READY

    def test_the_newest_of_several_tasks_takes_the_key(self):
        tasks = [TaskFactory(status=Status.FAILED, unique_name=KEY) for _ in range(3)]

        result = Task.objects.requeue_and_report()

        newest = tasks[-1].pk
        assert result.number == 1
        assert result.kept == {tasks[0].pk: newest, tasks[1].pk: newest}
        assert Task.objects.get(unique_key=KEY).pk == newest

    def test_a_finished_task_that_still_holds_its_key_is_the_one(self):
        own = TaskFactory(
            status=Status.FAILED, unique_name=KEY, unique_key=KEY, unique_until=DatabaseNow(60)
        )
        newer = TaskFactory(status=Status.FAILED, unique_name=KEY)

        result = Task.objects.requeue_and_report()

        assert result.kept == {newer.pk: own.pk}
        assert Task.objects.get(pk=own.pk).status == Status.READY

    def test_more_tasks_than_a_page(self, monkeypatch):
        monkeypatch.setattr("bgtask.models.requeue.PAGE_ROWS", 2)
        for number in range(5):
            TaskFactory(status=Status.FAILED, unique_name=f"key {number}")

        assert Task.objects.requeue() == 5

    def test_a_filter_is_respected(self):
        TaskFactory(status=Status.FAILED, unique_name=KEY)
        TaskFactory(status=Status.FAILED, unique_name="other", queue="mail")

        assert Task.objects.filter(queue="mail").requeue() == 1
        assert Task.objects.get(unique_key="other").status == Status.READY

    @pytest.mark.django_db(transaction=True)
    def test_requeues_at_the_same_time_give_the_key_to_one_task(self):
        tasks = [TaskFactory(status=Status.FAILED, unique_name=KEY) for _ in range(4)]

        numbers = all_at_once(*[task.requeue for task in tasks])

        assert sum(numbers) == 1
        assert Task.objects.filter(unique_key=KEY, status=Status.READY).count() == 1


def test_a_task_that_holds_its_key_is_not_pruned():
    kept = TaskFactory(
        status=Status.SUCCESSFUL,
        finished_at=DatabaseNow(-1000),
        unique_name=KEY,
        unique_key=KEY,
        unique_until=DatabaseNow(60),
    )
    TaskFactory(
        status=Status.SUCCESSFUL, finished_at=DatabaseNow(-1000), unique_until=DatabaseNow(-1)
    )
    TaskFactory(status=Status.SUCCESSFUL, finished_at=DatabaseNow(-1000))

    assert sum(Pruning(Status.SUCCESSFUL, 500)) == 2
    assert list(Task.objects.all()) == [kept]


def test_a_key_can_be_given_up_by_hand():
    task = TaskFactory(unique_name=KEY, unique_key=KEY)
    assert task.give_up_key()
    assert not task.give_up_key()
    task.refresh_from_db()
    assert (task.unique_key, task.unique_name) == (None, KEY)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("on_conflict", ["skip", "replace", "raise"])
def test_calls_at_the_same_time_store_one_task(on_conflict):
    from bgtask import AlreadyThere
    from tests.bgtask.test_unique import reindex

    unique = reindex.using(on_conflict=on_conflict)

    def enqueue():
        try:
            return unique(7).pk
        except AlreadyThere as error:
            return error.task_id

    ids = all_at_once(*[enqueue] * 8)

    assert len(set(ids)) == 1
    assert Task.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_bulks_at_the_same_time_store_each_key_once():
    from tests.bgtask.test_unique import reindex

    numbers = list(range(50))

    def enqueue(order):
        return lambda: reindex.enqueue_many([(number,) for number in order])

    stored = all_at_once(enqueue(numbers), enqueue(numbers[::-1]), enqueue(numbers[25:]))

    assert sum(stored) == 50
    assert Task.objects.count() == 50


def test_a_key_is_found_by_its_index(django_assert_num_queries):
    TaskFactory.create_batch(3)
    TaskFactory(unique_key=KEY, unique_name=KEY)
    plan = Task.objects.filter(unique_key=KEY).explain()
    if connection.vendor == "sqlite":
        assert "bgtask_task_unique" in plan


def test_the_time_of_unique_for_counts_from_the_enqueue():
    from tests.bgtask.test_unique import reindex

    reindex.using(unique_for=timedelta(minutes=5))(7, schedule=3600)
    task = Task.objects.get()
    assert abs(task.unique_until - task.enqueued_at - timedelta(minutes=5)) < timedelta(seconds=1)
