"""
Test what a call of a background function stores.

The module is long because each way to call a function is one case of the same storage.
"""

from __future__ import annotations

import asyncio
import functools
from datetime import UTC, datetime, timedelta

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from bgtask import InvalidOption, InvalidParameters, background
from bgtask.models import Task
from bgtask.testing import run_due
from tests.bgtask.functions import (
    bare,
    decorated_twice,
    doubled,
    has_its_own_queue,
    notified,
    notify_user,
    with_every_option,
)
from tests.bgtask.times import RESOLUTION, seconds_until


@pytest.fixture(autouse=True)
def _no_users_notified():
    notified.clear()


# A call


@pytest.mark.django_db
def test_a_call_stores_a_task_and_returns_it():
    task = notify_user(7)

    assert not notified
    stored = Task.objects.get()
    assert stored == task
    assert stored.task_name == "tests.bgtask.functions.notify_user"
    assert stored.params() == ([7], {})
    assert (stored.status, stored.queue, stored.priority) == ("SCHEDULED", "default", 0)
    assert (stored.status, stored.run_at) == (task.status, task.run_at)
    assert stored.enqueued_at == task.enqueued_at
    assert seconds_until(stored.run_at, stored.enqueued_at) == pytest.approx(60, abs=RESOLUTION)


@pytest.mark.django_db
def test_task_gets_the_options_of_the_decorator():
    task = with_every_option()

    task.refresh_from_db()
    assert (task.task_name, task.queue, task.priority) == ("tests.everything", "mail", 3)
    assert (task.max_attempts, task.max_run_time) == (4, 120.0)
    assert task.verbose_name == "Everything there is"
    assert seconds_until(task.run_at, task.enqueued_at) == pytest.approx(300, abs=RESOLUTION)


@pytest.mark.django_db
def test_options_of_the_call_override_those_of_the_decorator():
    task = with_every_option(schedule=0, queue="post", priority=-1, verbose_name="Only this one")

    task.refresh_from_db()
    assert (task.status, task.queue, task.priority) == ("READY", "post", -1)
    assert task.verbose_name == "Only this one"
    assert task.max_attempts == 4


@pytest.mark.django_db
def test_positional_and_keyword_parameters_arrive_as_they_were_given():
    bare(1, "two", None, three=[3.5, {"four": True}])

    (task,) = run_due()

    assert task.return_value == '[[1, "two", null], {"three": [3.5, {"four": true}]}]'


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1, 2), {}), ((), {"user": 1}), ((1,), {"user_id": 1})]
)
def test_call_that_does_not_fit_the_signature_raises_type_error_at_once(args, kwargs):
    with pytest.raises(TypeError, match=r"notify_user\(user_id\)"):
        notify_user(*args, **kwargs)

    assert not Task.objects.exists()


@pytest.mark.django_db
def test_parameter_named_in_the_signature_is_not_an_option():
    task = has_its_own_queue("parameter", priority=9)

    task.refresh_from_db()
    assert (task.queue, task.priority) == ("reports", 0)
    assert task.params() == (["parameter"], {"priority": 9})


@pytest.mark.django_db
def test_name_accepted_only_by_kwargs_is_an_option():
    task = bare(queue="mail", colour="red")

    assert task.queue == "mail"
    assert task.params() == ([], {"colour": "red"})


@pytest.mark.django_db
def test_enqueue_passes_every_argument_to_the_function():
    task = bare.enqueue(1, queue="parameter", schedule=60)

    task.refresh_from_db()
    assert (task.queue, task.status) == ("default", "READY")
    assert task.params() == ([1], {"queue": "parameter", "schedule": 60})


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("option", "value"), [("queue", "no spaces"), ("schedule", "soon"), ("priority", 1.5)]
)
def test_a_wrong_option_is_refused_at_the_call(option, value):
    with pytest.raises(InvalidOption, match=option):
        notify_user(1, **{option: value})

    assert not Task.objects.exists()


# using


@pytest.mark.django_db
def test_using_is_a_copy_with_other_options():
    hurried = notify_user.using(queue="mail", priority=5, schedule=timedelta(minutes=20))

    task, ordinary = hurried(1), notify_user(1)

    assert (task.queue, task.priority) == ("mail", 5)
    assert seconds_until(task.run_at, task.enqueued_at) == pytest.approx(1200, abs=RESOLUTION)
    assert (ordinary.queue, ordinary.priority) == ("default", 0)


@pytest.mark.django_db
def test_using_sets_options_whose_names_are_parameters():
    task = has_its_own_queue.using(queue="mail", priority=5)("parameter")

    assert (task.queue, task.priority) == ("mail", 5)
    assert task.params() == (["parameter"], {})


def test_using_refuses_unknown_options():
    with pytest.raises(InvalidOption, match="Unknown option 'colour'"):
        notify_user.using(colour="red")


def test_using_refuses_backoff():
    with pytest.raises(InvalidOption, match="backoff"):
        notify_user.using(backoff=5)


# When


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("schedule", "seconds"),
    [(90, 90), (90.25, 90.25), (timedelta(minutes=20), 1200), (timedelta(days=400), 34_560_000)],
    ids=str,
)
def test_delay_is_added_to_the_database_clock(schedule, seconds):
    task = notify_user(1, schedule=schedule)

    task.refresh_from_db()
    assert task.status == "SCHEDULED"
    assert seconds_until(task.run_at, task.enqueued_at) == pytest.approx(seconds, abs=RESOLUTION)


@pytest.mark.django_db
@pytest.mark.parametrize("schedule", [0, 0.0, timedelta(), None], ids=repr)
def test_task_without_schedule_is_ready_at_once(schedule):
    task = notify_user(1, schedule=schedule)

    task.refresh_from_db()
    assert task.status == "READY"
    assert task.run_at == task.enqueued_at


@pytest.mark.django_db
@pytest.mark.parametrize("schedule", [-60, timedelta(seconds=-60)], ids=repr)
def test_a_time_that_has_passed_is_ready(schedule):
    task = notify_user(1, schedule=schedule)

    task.refresh_from_db()
    assert task.status == "READY"
    assert seconds_until(task.run_at, task.enqueued_at) == pytest.approx(-60, abs=RESOLUTION)


@pytest.mark.django_db
def test_an_aware_datetime_is_that_instant():
    instant = datetime(2060, 7, 1, 12, 0, tzinfo=UTC)

    task = notify_user(1, schedule=instant)

    task.refresh_from_db()
    assert (task.status, task.run_at) == ("SCHEDULED", instant)


@pytest.mark.django_db
def test_a_naive_datetime_is_in_the_current_time_zone():
    with timezone.override("America/New_York"):
        task = notify_user(1, schedule=datetime(2060, 7, 1, 12, 0))

    task.refresh_from_db()
    assert task.run_at == datetime(2060, 7, 1, 16, 0, tzinfo=UTC)


@pytest.mark.django_db
def test_a_datetime_that_has_passed_is_ready():
    task = notify_user(1, schedule=datetime(2020, 7, 1, 12, 0, tzinfo=UTC))

    task.refresh_from_db()
    assert (task.status, task.run_at) == ("READY", datetime(2020, 7, 1, 12, 0, tzinfo=UTC))


# now


@pytest.mark.django_db
def test_now_runs_here_and_returns_the_value():
    assert notify_user.now(7) == "user 7"

    assert notified == [7]
    assert not Task.objects.exists()


def test_now_raises_what_the_function_raises():
    with pytest.raises(TypeError):
        notify_user.now()


# async


@pytest.mark.django_db
def test_an_async_function_runs():
    doubled(21)

    (task,) = run_due()

    assert (task.status, task.return_value) == ("SUCCESSFUL", "42")


def test_now_runs_an_async_function():
    assert doubled.now(21) == 42


@pytest.mark.django_db(transaction=True)
def test_aenqueue_stores_a_task():
    async def view():
        return await notify_user.using(priority=2).aenqueue(7)

    task = async_to_sync(view)()

    stored = Task.objects.get()
    assert (stored.pk, stored.priority, stored.params()) == (task.pk, 2, ([7], {}))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("store", "instead"),
    [
        (lambda: notify_user(7), "await notify_user.aenqueue(…)"),
        (lambda: notify_user(7, queue="mail"), "await notify_user.aenqueue(…)"),
        (
            lambda: notify_user.enqueue_many([(7,)]),
            "await sync_to_async(notify_user.enqueue_many)(…)",
        ),
    ],
    ids=["call", "call with options", "enqueue_many"],
)
def test_error_in_a_coroutine_names_the_async_method(store, instead):
    async def view():
        store()

    with pytest.raises(SynchronousOnlyOperation) as refusal:
        asyncio.run(view())

    assert instead in str(refusal.value)
    assert isinstance(refusal.value.__cause__, SynchronousOnlyOperation)
    assert not Task.objects.exists()


# enqueue_many


@pytest.mark.django_db
def test_enqueue_many_stores_a_task_for_each_item():
    number = bare.enqueue_many([(1, 2), [3], {"four": 4}, ()])

    assert number == 4
    assert [task.params() for task in Task.objects.order_by("pk")] == [
        ([1, 2], {}),
        ([3], {}),
        ([], {"four": 4}),
        ([], {}),
    ]


@pytest.mark.django_db
def test_enqueue_many_takes_the_options_of_the_function_and_of_using():
    with_every_option.using(queue="post").enqueue_many([()] * 2)

    tasks = Task.objects.all()
    assert {(task.queue, task.priority, task.max_attempts) for task in tasks} == {("post", 3, 4)}
    assert {task.status for task in tasks} == {"SCHEDULED"}


@pytest.mark.django_db
def test_enqueue_many_stores_a_thousand_rows_per_statement():
    with CaptureQueriesContext(connection) as asked:
        number = bare.enqueue_many((number,) for number in range(2_500))

    assert number == Task.objects.count() == 2_500
    assert sum("INSERT INTO" in query["sql"] for query in asked) == 3
    assert len(asked) <= 6  # A savepoint and a notification, too.


@pytest.mark.django_db
def test_enqueue_many_without_items_stores_nothing():
    assert bare.enqueue_many([]) == 0


@pytest.mark.django_db
@pytest.mark.parametrize("item", [(1, 2), {"user": 1}, ()], ids=repr)
def test_enqueue_many_refuses_an_item_that_does_not_fit_the_signature(item):
    with pytest.raises(TypeError, match=r"^Item 1: .*notify_user\(user_id\)") as refusal:
        notify_user.enqueue_many([(1,), item])

    assert isinstance(refusal.value.__cause__, TypeError)
    assert not Task.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("number", [0, 1_500])
def test_error_of_enqueue_many_names_the_item_that_is_not_json(number):
    items = [(1,)] * number + [({2},), (3,)]

    with pytest.raises(InvalidParameters, match=rf"^Item {number}: args\[0\] is a") as refusal:
        notify_user.enqueue_many(items)

    assert isinstance(refusal.value.__cause__, InvalidParameters)
    assert not Task.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("item", [7, "text", None, {1}], ids=repr)
def test_enqueue_many_refuses_an_item_without_parameters(item):
    with pytest.raises(InvalidParameters, match="Item 1 is"):
        notify_user.enqueue_many([(1,), item])

    assert not Task.objects.exists()


# A function wrapped by another decorator


@pytest.mark.django_db
def test_decorators_below_background_are_applied():
    decorated_twice(5)

    (task,) = run_due()

    assert task.return_value == '["logged", 5]'


# Parameters of any name

AWKWARD = {
    name: number
    for number, name in enumerate(
        ["self", "function", "func", "args", "kwargs", "params", "options", "name", "times", "loop",
         "exc_info", "cls", "task", "alias", "thread_sensitive"]
    )
}  # fmt: skip


@background
def webhook(**payload):
    return payload


@pytest.mark.django_db
def test_a_parameter_may_have_any_name():
    """Kind of fault: a parameter that the API takes for one of its own."""
    tasks = [webhook(**AWKWARD), webhook.enqueue(**AWKWARD), webhook.using(priority=1)(**AWKWARD)]
    webhook.enqueue_many([AWKWARD])

    assert [task.params() for task in tasks] == [([], AWKWARD)] * 3
    assert webhook.now(**AWKWARD) == AWKWARD
    assert [task.status for task in run_due()] == ["SUCCESSFUL"] * 4


@pytest.mark.django_db(transaction=True)
def test_a_parameter_may_have_any_name_in_async_code():
    task = async_to_sync(functools.partial(webhook.aenqueue, **AWKWARD))()

    assert task.params() == ([], AWKWARD)


def test_self_is_no_option():
    with pytest.raises(InvalidOption, match="Unknown option 'self'"):
        webhook.using(**{"self": 1})
