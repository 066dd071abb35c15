"""
Test what enqueuing a task of Django's API stores, and what it refuses.

The module is long because each kind of bad input has a test of its own.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from importlib import import_module
from typing import Any
from uuid import UUID

import pytest
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.db import transaction
from django.utils import timezone

from bgtask import background
from bgtask.backend import BgtaskTask, api, task_options
from bgtask.exceptions import InvalidOption, InvalidParameters
from bgtask.models import Task
from bgtask.testing import run_due
from tests.bgtask.backend import jobs
from tests.bgtask.backend.signal_log import recorded

pytestmark = pytest.mark.django_db

task: Any = jobs.task


@task
def with_parameters(one, *, two):
    return None


def plain(one):
    return one


another_name = task(plain)


@background(name=f"{__name__}.taken")
def of_background():
    return None


@task
def taken():
    return None


class Group:
    @staticmethod
    @task
    def method():
        return None


OTHER_ALIAS = {"backend": "patient"}


def test_the_row_has_what_the_call_says():
    result = jobs.add.using(queue_name="mail", priority=7).enqueue(1, two=2)

    row = Task.objects.get()
    assert row.task_name == "tests.bgtask.backend.jobs.add"
    assert row.task_params == '[[1], {"two": 2}]'
    assert (row.queue, row.priority, row.status) == ("mail", 7, "READY")
    assert (row.backend, row.result_id) == ("default", UUID(result.id))
    assert (row.max_attempts, row.max_run_time) == (1, None)


def test_the_id_of_a_result_is_random_and_not_the_key_of_the_row():
    result = jobs.add.enqueue(1)

    assert len(result.id) == 32
    assert UUID(result.id).version == 4


def test_a_stored_result_is_the_one_that_was_returned():
    for task_ in (
        jobs.add,
        jobs.add.using(run_after=timezone.now() + timedelta(hours=1)),
        jobs.add.using(run_after=timedelta(hours=1)),
        jobs.add.using(priority=3, queue_name="mail"),
        jobs.add.using(**OTHER_ALIAS),
    ):
        result = task_.enqueue(1)
        assert result.status == "READY"
        assert jobs.add.get_backend().get_result(result.id) == result


def test_a_plain_task_has_no_result_id():
    background_task = of_background()

    background_task.refresh_from_db()
    assert (background_task.backend, background_task.result_id) == ("", None)


def test_enqueuing_takes_one_query(django_assert_num_queries):
    with django_assert_num_queries(1):
        result = jobs.add.enqueue(1)
    with django_assert_num_queries(1):
        jobs.add.get_result(result.id)


# run_after


def test_a_datetime_says_when_a_task_runs():
    when = timezone.now() + timedelta(hours=1)

    result = jobs.add.using(run_after=when).enqueue(1)

    row = Task.objects.get()
    assert (row.status, row.run_at) == ("SCHEDULED", when)
    assert result.task.run_after == when


def test_a_timedelta_is_added_to_the_clock_of_the_database():
    result = jobs.add.using(run_after=timedelta(hours=1)).enqueue(1)

    row = Task.objects.get()
    assert row.status == "SCHEDULED"
    assert abs(row.run_at - row.enqueued_at - timedelta(hours=1)) < timedelta(milliseconds=10)
    assert result.task.run_after == row.run_at


@pytest.mark.parametrize("when", [5, "tomorrow", 1.5])
def test_run_after_of_another_type_is_refused(when):
    with pytest.raises(api.InvalidTask, match="must be a datetime or a timedelta"):
        jobs.add.using(run_after=when)


def test_run_after_in_another_century_is_refused():
    with pytest.raises(api.InvalidTask, match="not within a hundred years"):
        jobs.add.using(run_after=timedelta(days=90_000))


def test_without_time_zones_naive_and_aware_times_are_stored(settings):
    settings.USE_TZ = False
    for when in (timedelta(hours=1), datetime.now() + timedelta(hours=1)):
        result = jobs.add.using(run_after=when).enqueue(1)
        assert timezone.is_naive(result.task.run_after)
        assert Task.objects.get(result_id=result.id).status == "SCHEDULED"


# Arguments


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ((1, 2), [1, 2]),
        (b"text", "text"),
        ({1: "one", False: 2, None: 3}, {"1": "one", "false": 2, "null": 3}),
        ({"nested": ({2: ()},)}, {"nested": [{"2": []}]}),
    ],
)
def test_arguments_are_stored_as_other_backends_store_them(value, stored):
    result = jobs.echo.enqueue(value)

    assert result.args == [stored]
    assert jobs.echo.get_result(result.id).args == [stored]


@pytest.mark.parametrize("value", [object(), timezone.now(), {1, 2}, {(1, 2): 3}])
def test_an_argument_that_is_no_json_is_refused(value):
    with pytest.raises(TypeError, match=r"Unsupported type|unhashable"):
        jobs.echo.enqueue(value)
    assert not Task.objects.exists()


@pytest.mark.parametrize(
    "value", [float("nan"), "x" * 300_000, 10**5000], ids=["nan", "size", "digits"]
)
def test_an_argument_that_bgtask_does_not_store_is_refused(value):
    with pytest.raises(InvalidParameters):
        jobs.echo.enqueue(value)


def test_an_argument_that_contains_itself_is_refused():
    value: list = []
    value.append(value)

    with pytest.raises(InvalidParameters, match="nested too deeply, or contains itself"):
        jobs.echo.enqueue(value)


@pytest.mark.parametrize("call", [((), {}), ((1, 2), {}), ((1,), {"two": 1, "three": 1})])
def test_arguments_that_do_not_fit_the_function_are_refused_at_the_call(call):
    args, kwargs = call

    with pytest.raises(TypeError, match=r"with_parameters\(one, \*, two\): "):
        with_parameters.enqueue(*args, **kwargs)


def test_the_context_is_no_argument_of_the_caller():
    with pytest.raises(TypeError, match=r"describe\(name\)"):
        jobs.describe.enqueue("context", "name")


# Tasks that no worker would find


def test_a_task_without_a_path_of_its_own_is_refused():
    with pytest.raises(api.InvalidTask, match=r"there is no task\. Decorate"):
        another_name.enqueue(1)


def test_a_task_in_a_class_is_refused():
    with pytest.raises(api.InvalidTask, match="there is no task"):
        Group.method.enqueue()


def test_a_name_that_a_background_function_has_is_refused():
    with pytest.raises(api.InvalidTask, match="another function, <BackgroundFunction"):
        taken.enqueue()


def test_a_task_whose_path_leads_to_a_later_one_is_refused():
    """Kind of fault: a worker runs another function than the one that was enqueued."""
    namespace = {"__name__": "tests.bgtask.backend.jobs", "task": task}
    exec("@task\ndef add(one, two): pass", namespace)  # noqa: S102

    with pytest.raises(api.InvalidTask, match=r"jobs\.add, and there is another function"):
        namespace["add"].enqueue(1, 2)


def test_a_task_of_the_main_program_is_refused():
    namespace = {"__name__": "__main__", "task": task}
    exec("@task\ndef typed(): pass", namespace)  # noqa: S102

    with pytest.raises(api.InvalidTask, match=r"__main__\.typed is defined in the program"):
        namespace["typed"].enqueue()


def test_a_module_that_no_worker_imports_is_refused(tmp_path, monkeypatch):
    (tmp_path / "stray_jobs.py").write_text(
        "from tests.bgtask.backend.jobs import task\n\n@task\ndef stray(): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    stray = import_module("stray_jobs").stray

    with pytest.raises(api.InvalidTask, match=r"Add 'stray_jobs' to OPTIONS\['modules'\]"):
        stray.enqueue()


def test_a_long_path_is_refused():
    name = "e" * 255
    namespace = {"__name__": __name__, "task": task}
    exec(f"@task\ndef {name}(): pass", namespace)  # noqa: S102

    with pytest.raises(api.InvalidTask, match="of 255 allowed"):
        namespace[name].enqueue()


@pytest.mark.parametrize("queue", ["two words", "", "q" * 101, "é"])
def test_a_name_that_no_queue_can_have_is_refused(queue):
    with pytest.raises(api.InvalidTask, match="is not a valid queue name"):
        jobs.add.using(queue_name=queue, **OTHER_ALIAS)


# Options


def test_options_come_from_the_task_then_the_decorator_then_the_backend():
    def max_attempts_of(task_):
        row = Task.objects.get(result_id=task_.enqueue().id)
        return row.max_attempts, row.max_run_time

    assert max_attempts_of(jobs.succeed_the_third_time) == (3, None)
    assert max_attempts_of(jobs.count_users.using(**OTHER_ALIAS)) == (3, 600)
    assert max_attempts_of(jobs.give_up.using(**OTHER_ALIAS)) == (5, 600)
    own = BgtaskTask(
        **{
            **{name: getattr(jobs.give_up, name) for name in jobs.give_up.__dataclass_fields__},
            "max_attempts": 7,
            "max_run_time": timedelta(minutes=1),
        }
    )
    assert max_attempts_of(own) == (7, 60)


def test_wrong_options_are_refused_where_they_are_given():
    with pytest.raises(InvalidOption, match="max_attempts takes the number"):
        task_options(max_attempts=0)
    with pytest.raises(InvalidOption, match="Give the options of a background function"):
        task_options(max_attempts=2)(of_background)
    with pytest.raises(TypeError):
        task_options(schedule=2)


def test_wrong_options_of_the_backend_are_refused_at_the_call(settings):
    settings.TASKS = {
        "default": {"BACKEND": "bgtask.backend.BgtaskBackend", "OPTIONS": {"database": "other"}}
    }
    with pytest.raises(ImproperlyConfigured, match="the database router decides"):
        jobs.add.enqueue(1)


# Transactions


def test_a_rollback_takes_the_task_with_it():
    with transaction.atomic():
        result = jobs.add.enqueue(1)
        transaction.set_rollback(True)

    with pytest.raises(api.TaskResultDoesNotExist):
        jobs.add.get_result(result.id)


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_within_a_transaction_of_another_database_the_task_is_stored_at_its_commit():
    later = jobs.add.using(run_after=timedelta(hours=1))
    with recorded() as sent:
        with transaction.atomic(using="other"):
            result, deferred = jobs.add.enqueue(1), later.enqueue(2)

            assert (result.status, deferred.status) == ("READY", "READY")
            assert result.enqueued_at is not None
            assert deferred.task.run_after > timezone.now() + timedelta(minutes=59)
            with pytest.raises(api.TaskResultDoesNotExist):
                jobs.add.get_result(result.id)
            assert not sent

        assert [one.name for one in sent] == ["enqueued", "enqueued"]
    stored = jobs.add.get_result(result.id)
    assert (stored.id, stored.args) == (result.id, [1])
    result.refresh()
    assert result.enqueued_at == stored.enqueued_at


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_a_rollback_of_another_database_stores_nothing():
    with transaction.atomic(using="other"):
        jobs.add.enqueue(1)
        transaction.set_rollback(True, using="other")

    assert not Task.objects.exists()


# Async code


@pytest.mark.django_db(transaction=True)
def test_async_code_enqueues_and_reads():
    from asgiref.sync import async_to_sync

    async def use():
        result = await jobs.add.aenqueue(1, two=2)
        return result, await jobs.add.aget_result(result.id)

    result, stored = async_to_sync(use)()
    assert result == stored


@pytest.mark.django_db(transaction=True)
def test_a_synchronous_call_in_a_coroutine_names_the_other_one():
    from asgiref.sync import async_to_sync

    async def use():
        jobs.add.enqueue(1)

    with pytest.raises(SynchronousOnlyOperation, match=r"await add\.aenqueue\(…\)"):
        async_to_sync(use)()


# Results that do not exist


@pytest.mark.parametrize("id_", ["123", "", None, 17, "x" * 32, "0" * 32])
def test_an_id_that_no_result_has_is_answered_with_djangos_error(id_):
    with pytest.raises(api.TaskResultDoesNotExist):
        jobs.add.get_result(id_)


def test_a_task_that_was_deleted_has_no_result():
    result = jobs.add.enqueue(1)
    run_due()
    Task.objects.all().discard()

    with pytest.raises(api.TaskResultDoesNotExist):
        result.refresh()
