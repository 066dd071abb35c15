"""
Test the functions of bgtask.testing, which the tests of a project call.

The module is long because each function of that module has its own cases.
"""

from __future__ import annotations

import json

import pytest
from django.contrib.auth.models import Group
from django.db import IntegrityError, transaction
from django.test import TestCase, TransactionTestCase

from bgtask import Retry, background
from bgtask.db.routing import database_now
from bgtask.models import QueuePause, Task, TaskHold, Worker
from bgtask.testing import TaskFailed, assert_enqueued, enqueued, immediately, run_due
from tests.factories import TaskFactory
from tests.tasks import add, fail, noop

pytestmark = pytest.mark.django_db


@background(max_attempts=3)
def make_group(name):
    Group.objects.create(name=name)


@background
def make_group_then_fail(name):
    Group.objects.create(name=name)
    raise ValueError("after the group")


@background
def break_the_transaction():
    Group.objects.create(name="lost")
    transaction.set_rollback(True)


@background
def enqueue_another(number):
    if number:
        enqueue_another(number - 1)


@background
def enqueue_without_end():
    enqueue_without_end()


@background
def ask_for_another_attempt():
    raise Retry(in_=60)


order: list[str] = []


@background
def note(name):
    order.append(name)


@pytest.fixture(autouse=True)
def _nothing_noted():
    order.clear()


# run_due


def test_run_due_runs_due_tasks_and_returns_them():
    add(1, 2)
    later = add(3, 4, schedule=60)

    (task,) = run_due()

    assert (task.status, task.return_value, task.attempts) == ("SUCCESSFUL", "3", 1)
    later.refresh_from_db()
    assert later.status == "SCHEDULED"


def test_run_due_runs_nothing_without_due_tasks():
    assert run_due() == []


def test_run_due_runs_scheduled_tasks_on_request():
    add(3, 4, schedule=3_600)

    (task,) = run_due(scheduled=True)

    assert task.status == "SUCCESSFUL"


def test_run_due_uses_the_order_of_a_worker():
    note("ordinary")
    note("hurried", priority=5)
    note("earlier", schedule=-60)
    note("hurried elsewhere", priority=9, queue="mail")

    run_due()

    assert order == ["hurried elsewhere", "hurried", "earlier", "ordinary"]


def test_run_due_runs_tasks_that_become_due_meanwhile():
    enqueue_another(3)

    assert len(run_due()) == 4


def test_run_due_stops_at_its_limit():
    enqueue_without_end()

    with pytest.raises(AssertionError, match="More than 5 tasks; do they enqueue themselves"):
        run_due(limit=5)

    assert Task.objects.succeeded().count() == 5
    assert Task.objects.ready().count() == 1


def test_run_due_accepts_as_many_tasks_as_its_limit():
    noop.enqueue_many([()] * 5)

    assert len(run_due(limit=5)) == 5


def test_run_due_runs_only_the_given_queues():
    mailed = noop(queue="mail")
    noop()

    assert run_due(queues=["mail"]) == [mailed]


def test_run_due_accepts_the_name_of_one_queue():
    mailed = noop(queue="mail")
    noop()

    assert run_due(queues="mail") == [mailed]
    assert Worker.objects.get().queues == "mail"


def test_run_due_runs_nothing_without_queues():
    noop()
    TaskFactory(crashes=1)

    assert run_due(queues=[]) == []
    assert Task.objects.ready().count() == 2


def test_run_due_skips_paused_queues_and_types_on_hold():
    now = database_now("default")
    QueuePause.objects.create(queue="mail", paused_at=now)
    TaskHold.objects.create(task_name=add.name, held_at=now)
    in_paused_queue, of_held_kind, other = noop(queue="mail"), add(1, 2), noop()

    assert run_due() == [other]

    in_paused_queue.refresh_from_db()
    of_held_kind.refresh_from_db()
    assert in_paused_queue.status == "READY"
    assert (of_held_kind.status, of_held_kind.held_for) == ("HELD", "type")


def test_run_due_runs_suspects():
    suspect = TaskFactory(crashes=1)

    assert run_due() == [suspect]


def test_run_due_leaves_no_worker():
    noop()
    run_due()

    assert not Worker.objects.living().exists()


def test_run_due_raises_the_error_of_a_task_with_its_cause():
    task = fail("on purpose")

    with pytest.raises(TaskFailed, match=r"tests\.tasks\.fail .* failed: RuntimeError") as failure:
        run_due()

    assert isinstance(failure.value, AssertionError)
    assert isinstance(failure.value.__cause__, RuntimeError)
    task.refresh_from_db()
    assert task.status == "SCHEDULED"


def test_run_due_releases_unstarted_tasks_after_an_error():
    fail()
    noop.enqueue_many([()] * 3)

    with pytest.raises(TaskFailed):
        run_due()

    assert Task.objects.ready().filter(attempts=0).count() == 3


def test_run_due_can_record_errors_like_a_worker():
    task = fail("on purpose")

    (ran,) = run_due(raise_errors=False)

    assert ran == task
    assert (ran.status, ran.attempts, ran.error_class) == ("SCHEDULED", 1, "RuntimeError")


def test_run_due_raises_no_error_for_a_requested_retry():
    ask_for_another_attempt()

    (task,) = run_due()

    assert task.status == "SCHEDULED"


def test_writes_of_a_failed_task_are_kept_as_with_a_worker():
    make_group_then_fail("kept")

    run_due(raise_errors=False)

    assert Group.objects.filter(name="kept").exists()


def test_database_error_of_a_task_does_not_break_the_transaction_of_the_test():
    Group.objects.create(name="taken")
    task = make_group("taken")

    with pytest.raises(TaskFailed) as failure:
        run_due()

    assert isinstance(failure.value.__cause__, IntegrityError)
    task.refresh_from_db()
    assert task.status == "SCHEDULED"
    assert Group.objects.count() == 1


def test_task_with_a_broken_transaction_does_not_break_that_of_the_test():
    break_the_transaction()

    run_due(raise_errors=False)

    assert not Group.objects.exists()
    assert Task.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_run_due_works_outside_a_transaction():
    make_group("outside")

    (task,) = run_due()

    assert task.status == "SUCCESSFUL"
    assert Group.objects.count() == 1


class InATestCase(TestCase):
    def test_run_due_runs_tasks(self):
        note("here")

        run_due()

        assert order == ["here"]

    def test_on_commit_runs_on_request(self):
        with self.captureOnCommitCallbacks(execute=True):
            transaction.on_commit(lambda: note("later"))

        assert_enqueued(note, "later", times=1)


class InATransactionTestCase(TransactionTestCase):
    def test_run_due_runs_tasks(self):
        note("here")

        run_due()

        assert order == ["here"]


# immediately


def test_immediately_runs_a_task_as_it_is_enqueued():
    with immediately():
        task = add(1, 2, schedule=3_600)

    assert (task.status, task.return_value, task.attempts) == ("SUCCESSFUL", "3", 1)


def test_immediately_runs_each_of_many():
    with immediately():
        note.enqueue_many([("one",), ("two",)])

    assert order == ["one", "two"]


def test_immediately_runs_what_a_task_enqueues():
    with immediately():
        enqueue_another(3)

    assert Task.objects.succeeded().count() == 4


def test_immediately_raises_the_error_of_the_task():
    with pytest.raises(TaskFailed, match="RuntimeError"), immediately():
        fail()


def test_immediately_can_record_errors():
    with immediately(raise_errors=False):
        task = fail()

    assert (task.status, task.error_class) == ("SCHEDULED", "RuntimeError")


def test_immediately_ends_with_its_block():
    with immediately():
        pass

    task = add(1, 2)

    task.refresh_from_db()
    assert task.status == "READY"


def test_immediately_does_not_run_earlier_tasks():
    before = add(1, 2)

    with immediately():
        noop()

    before.refresh_from_db()
    assert before.status == "READY"


# enqueued


def test_enqueued_returns_waiting_tasks():
    first, second = add(1, 2), add(3, 4, schedule=60)
    noop()
    TaskFactory(task_name=add.name, status="SUCCESSFUL")

    assert set(enqueued(add)) == {first, second}
    assert set(enqueued(add.name)) == {first, second}
    assert enqueued().count() == 3


def test_enqueued_compares_all_parameters():
    first = add(1, b=[2, "two"])
    add(1, b=3)

    assert list(enqueued(add, 1, b=[2, "two"])) == [first]
    assert not enqueued(add, 1, [2, "three"]).exists()


def test_parameters_are_compared_by_name_however_they_were_passed():
    """Kind of fault: a test that can't find the task that it enqueued in another spelling."""
    tasks = {add(1, 2), add(1, b=2), add(b=2, a=1)}
    add(2, 1)

    assert set(enqueued(add, 1, 2)) == tasks
    assert set(enqueued(add, b=2, a=1)) == tasks
    assert set(enqueued(add.name, 1, b=2)) == tasks
    assert_enqueued(add, 1, 2, times=3)


def test_parameters_of_other_types_are_other_parameters():
    add(1, 2)

    for other in (True, 1.0, "1"):
        assert not enqueued(add, other, 2).exists()


def test_dictionaries_among_the_parameters_are_the_same_in_any_order():
    add({"x": 1, "y": 2}, 0)

    assert_enqueued(add, {"y": 2, "x": 1}, 0)


def test_tasks_of_an_unknown_name_are_found_by_their_parameters():
    task = Task.objects.enqueue("tests.unknown", (1,), {"b": 2})
    TaskFactory(task_name="tests.unknown", task_params="broken")

    assert list(enqueued("tests.unknown", 1, b=2)) == [task]


@background
def remind(text, times=1, *, function="", schedule=""):
    return [text, times, function, schedule]


@background
def webhook(**payload):
    return payload


def test_a_parameter_named_like_one_of_the_helpers_is_the_functions_own():
    remind.enqueue("hello", times=3, function="f", schedule="daily")

    assert_enqueued(remind, "hello", times=3, function="f", schedule="daily")
    assert enqueued(remind, "hello", 3, function="f", schedule="daily").count() == 1
    with pytest.raises(AssertionError, match="waits 0 times"):
        assert_enqueued(remind, "hello", times=2)


def test_parameters_with_the_names_of_pythons_own_are_found():
    payload = {"self": "https://example.org", "function": 1, "args": [2], "kwargs": {}, "cls": 3}
    webhook(**payload)

    assert_enqueued(webhook, **payload)
    assert list(enqueued(webhook, **payload)) == list(enqueued())
    (task,) = run_due()
    assert json.loads(task.return_value) == payload


@pytest.mark.parametrize("look", [enqueued, lambda **kwargs: assert_enqueued(add, **kwargs)])
def test_enqueued_refuses_parameters_that_do_not_fit(look):
    with pytest.raises(TypeError, match=r"enqueued\(…\)\.filter\(queue=…\)"):
        look(queue="mail")


def test_assert_enqueued_passes_for_a_waiting_task():
    add(1, 2)
    add(1, 2)

    assert_enqueued(add)
    assert_enqueued(add, 1, 2)
    assert_enqueued(add, 1, 2, times=2)
    assert_enqueued(noop, times=0)


@pytest.mark.parametrize("times", [None, 1, 3])
def test_assert_enqueued_names_the_waiting_tasks(times):
    add(1, 2)
    add(1, 2)
    args = (9, 9) if times is None else (1, 2)

    with pytest.raises(AssertionError) as failure:
        assert_enqueued(add, *args, times=times)

    assert "tests.tasks.add [[1, 2], {}]" in str(failure.value)
