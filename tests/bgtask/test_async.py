"""
Test async functions: their database connections, their errors and other awaitable results.

The module is long because a coroutine and synchronous code can call each other in many ways.
"""

from __future__ import annotations

import asyncio
import functools

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import Group
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connection, transaction

from bgtask import InvalidFunction, background, current_task
from bgtask.failures import class_of
from bgtask.models import Task
from bgtask.testing import immediately, run_due
from bgtask.worker import Runner
from tests.helpers import eventually
from tests.tasks import count_groups, meet_in_the_database

seen: list[object] = []


@pytest.fixture(autouse=True)
def _nothing_seen():
    seen.clear()


@background(max_attempts=1)
async def make_group(name):
    await Group.objects.acreate(name=name)


@background
async def leave_autocommit_off():
    await sync_to_async(transaction.set_autocommit)(False)


def _id():
    return current_task().id


@background
async def tell_where():
    async def inner():
        return current_task().id

    async with asyncio.TaskGroup() as group:
        child = group.create_task(inner())
    seen.extend([current_task().id, child.result(), await sync_to_async(_id)()])


@background
async def leave_a_coroutine_running():
    async def never_ends():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    seen.append(asyncio.ensure_future(never_ends()))
    await asyncio.sleep(0)


ERRORS = {
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "CancelledError": asyncio.CancelledError(),
    "ValueError": ValueError("no luck"),
}


@background(max_attempts=1)
async def fail_with(name):
    raise ERRORS[name]


@background(max_attempts=1)
async def fail_in_a_group_with(name):
    async with asyncio.TaskGroup() as group:
        group.create_task(fail_with.function(name))


# Connections: the kind of fault is a thread whose connections are never cleaned up


@pytest.mark.django_db
@pytest.mark.parametrize("run", ["run_due", "immediately", "now"])
def test_an_async_task_works_in_the_transaction_of_the_test(run):
    Group.objects.create(name="before")
    with transaction.atomic():
        if run == "run_due":
            make_group("during")
            (task,) = run_due()
            assert task.status == "SUCCESSFUL"
        elif run == "immediately":
            with immediately():
                make_group("during")
        else:
            make_group.now("during")
        assert count_groups.now() == 2
        transaction.set_rollback(True)

    assert Group.objects.get().name == "before"


@pytest.mark.django_db(transaction=True)
def test_open_transaction_of_an_async_task_does_not_affect_the_next_task(caplog):
    leave_autocommit_off()
    make_group("innocent")

    Runner(drain=True).run()

    assert Group.objects.filter(name="innocent").exists()
    assert "turned autocommit off" in caplog.text


def test_async_tasks_use_the_database_at_the_same_time(process_tasks, tmp_path):
    for number in range(4):
        meet_in_the_database(str(tmp_path), number, 4)

    worker = process_tasks("--threads=4", "--drain")

    eventually(lambda: Task.objects.succeeded().count() == 4, timeout=60, explain=worker.output)


@pytest.mark.vendor("postgresql")
def test_async_tasks_recover_from_a_cut_connection(process_tasks):
    """Kind of fault: a broken connection is kept, and fails more than one attempt."""
    worker = process_tasks("--sleep=0.1", env={"PGAPPNAME": "cut-me"})
    first = count_groups()
    eventually(lambda: Task.objects.succeeded().filter(pk=first.pk), explain=worker.output)

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'cut-me'"
        )
    lost = count_groups()
    eventually(lambda: Task.objects.finished().filter(pk=lost.pk), explain=worker.output)
    after = count_groups()
    eventually(lambda: Task.objects.finished().filter(pk=after.pk), explain=worker.output)

    after.refresh_from_db()
    assert (after.status, after.return_value) == ("SUCCESSFUL", "0")


# Errors: the kind of fault is one that stops the event loop, or the thread, and not the task


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("function", [fail_with, fail_in_a_group_with])
@pytest.mark.parametrize("name", ERRORS)
def test_any_exception_of_an_async_task_fails_it(function, name):
    error_class = class_of(ERRORS[name])
    if function is fail_in_a_group_with and name == "ValueError":
        error_class = "ExceptionGroup"
    task = function(name)
    after = count_groups()

    Runner(drain=True).run()  # run_due() raises a KeyboardInterrupt.

    task.refresh_from_db()
    expected = ("FAILED", error_class)
    if function is fail_in_a_group_with and name == "CancelledError":
        expected = ("SUCCESSFUL", "")  # The group ignores it, as Python's documentation says.
    assert (task.status, task.error_class) == expected
    after.refresh_from_db()
    assert after.status == "SUCCESSFUL"


@pytest.mark.django_db
def test_the_traceback_begins_in_the_task():
    task = fail_with("ValueError")

    run_due(raise_errors=False)

    task.refresh_from_db()
    first, *_ = [line for line in task.last_error.splitlines() if line.startswith("  File ")]
    assert "in fail_with" in first


@pytest.mark.django_db
def test_coroutines_that_a_task_leaves_running_are_cancelled():
    leave_a_coroutine_running()

    (task,) = run_due()

    assert task.status == "SUCCESSFUL"
    assert seen[1:] == ["cancelled"]


@pytest.mark.django_db
def test_current_task_is_set_in_all_code_of_an_async_task():
    task = tell_where()

    run_due()

    assert seen == [task.pk] * 3


# What a call may return: the kind of fault is a task that is SUCCESSFUL and ran nothing


class Promise:
    def __await__(self):
        seen.append("ran")
        yield from asyncio.sleep(0).__await__()
        return 42


def returning_a_promise(function):
    @functools.wraps(function)
    def wrapper():
        return Promise()

    return wrapper


def calling_async(function):
    @functools.wraps(function)
    def wrapper():
        seen.append(Group.objects.count())  # Allowed here: this much of it is not async.
        return function()

    return wrapper


class AsyncCallable:
    def __init__(self, function):
        self.function = function
        functools.update_wrapper(self, function)

    async def __call__(self):
        return await self.function()


def partially(function):
    return functools.update_wrapper(functools.partial(function), function)


async def ran():
    seen.append("ran")
    return 42


AWAITABLE = {
    "coroutine function": ran,
    "promise": returning_a_promise(ran),
    "sync wrapper": calling_async(ran),
    "object with an async __call__": AsyncCallable(ran),
    "partial": partially(ran),
}


@pytest.mark.django_db
@pytest.mark.parametrize("kind", AWAITABLE)
def test_any_awaitable_result_is_awaited(kind):
    function = background(name=f"tests.async.{kind}")(AWAITABLE[kind])
    function()

    (task,) = run_due()

    assert (task.status, task.return_value) == ("SUCCESSFUL", "42")
    assert function.now() == 42
    assert seen.count("ran") == 2


def hidden(function):
    @functools.wraps(function)
    def wrapper():
        return function()

    return wrapper


@hidden
def generator():
    yield seen.append("ran")


@hidden
async def async_generator():
    yield seen.append("ran")


def consumed(function):
    @functools.wraps(function)
    def wrapper():
        return len(list(function()))

    return wrapper


@consumed
def consumed_generator():
    yield seen.append("ran")


def generator_of_another():
    seen.append("ran")
    return (number for number in range(3))


@pytest.mark.django_db
@pytest.mark.parametrize("function", [generator, async_generator])
def test_generator_function_behind_a_decorator_fails(function):
    hidden_one = background(name=f"tests.async.{function.__name__}", max_attempts=1)(function)
    task = hidden_one()

    run_due(raise_errors=False)

    task.refresh_from_db()
    assert (task.status, task.error_class) == ("FAILED", "bgtask.exceptions.InvalidFunction")
    with pytest.raises(InvalidFunction, match="is a generator: calling it runs nothing"):
        hidden_one.now()
    assert seen == []


@pytest.mark.django_db
@pytest.mark.parametrize("function", [consumed_generator, generator_of_another])
def test_returned_generator_does_not_fail_the_task(function):
    background(name=f"tests.async.{function.__name__}", max_attempts=1)(function)()

    (task,) = run_due()

    assert task.status == "SUCCESSFUL"
    assert seen == ["ran"]


# In an event loop: the kind of fault is a loop that waits for itself


def test_error_of_now_in_an_event_loop_names_the_remedy():
    async def view():
        count_groups.now()

    with pytest.raises(SynchronousOnlyOperation, match=r"await sync_to_async\(count_groups.now\)"):
        asyncio.run(view())


@pytest.mark.django_db
def test_error_of_run_due_in_an_event_loop_names_the_remedy():
    async def test():
        run_due()

    with pytest.raises(SynchronousOnlyOperation, match=r"await sync_to_async\(run_due\)\(\)"):
        asyncio.run(test())


@pytest.mark.django_db
def test_an_async_test_runs_async_tasks():
    async def test():
        await count_groups.aenqueue()
        (task,) = await sync_to_async(run_due)()
        with immediately():
            other = await count_groups.aenqueue()
        return task, other, await sync_to_async(count_groups.now)()

    task, other, number = async_to_sync(test)()

    assert (task.status, other.status, number) == ("SUCCESSFUL", "SUCCESSFUL", 0)
