"""Run and inspect background tasks in the tests of a project, without a worker.

    from bgtask.testing import enqueued, immediately, run_due

    def test_a_new_member_is_welcomed(db, mailoutbox):
        register("ada@example.org")

        assert enqueued(notify_user).count() == 1
        run_due()
        assert len(mailoutbox) == 1

Tasks are claimed, executed and finished as by a worker, but in the caller's thread, connection and
transaction. Within a transaction, each task gets a savepoint. All this works in a TestCase.

In an async test, write ``await sync_to_async(run_due)()``.

The module is long because it is all that tests of a project import.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from django.core.exceptions import SynchronousOnlyOperation
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, transaction

from bgtask import registry
from bgtask.decorators import BackgroundFunction
from bgtask.exceptions import MalformedTask, Retry, UnknownTask
from bgtask.lifecycle import enqueue as storing
from bgtask.lifecycle.attempts import Outcome
from bgtask.lifecycle.claim import (
    claim_queue,
    claim_suspect,
    claim_these,
    release_claims,
    set_aside_claims,
    sort_claims,
    take_snapshot,
)
from bgtask.lifecycle.finish import finish_attempts
from bgtask.lifecycle.promote import promote_due
from bgtask.loggers import is_ctrl_c
from bgtask.models import Task, TaskQuerySet, Worker
from bgtask.options import check_queues
from bgtask.serialization import dump_params, load_params
from bgtask.status import HeldFor, Status
from bgtask.values import brief
from bgtask.worker.events import dispatch
from bgtask.worker.executor import execute

__all__ = ["TaskFailed", "assert_enqueued", "enqueued", "immediately", "run_due"]

_BATCH = 100
_ALL = 1_000_000  # Number of queues.


class TaskFailed(AssertionError):
    """
    Raised by ``run_due()`` and within ``immediately()`` if a task fails.

    The error of the task is the ``__cause__``.
    """


def run_due(
    *,
    queues: str | Sequence[str] | None = None,
    raise_errors: bool = True,
    limit: int = 10_000,
    scheduled: bool = False,
) -> list[Task]:
    """
    Run all tasks that are due, and return them in the order in which they were run.

    Tasks that become due meanwhile, such as those that a task enqueues, are run as well.

    ``queues``
        A queue name or a list of queue names. By default, tasks of all queues are run.
    ``raise_errors``
        If True, the default, raise TaskFailed as soon as an attempt ends with an error. An
        attempt that asks for another one by raising Retry, and gets it, is no failure. If False,
        only record the error, as a worker would, and go on.
    ``limit``
        Raise AssertionError if there are more tasks than this. It ends tasks that go on
        enqueuing themselves.
    ``scheduled``
        If True, also run tasks that are scheduled for later, each at most once.
    """
    queues = check_queues(queues)
    try:
        worker = Worker.register(queues or ())
    except SynchronousOnlyOperation as error:
        raise SynchronousOnlyOperation(
            "You can't call run_due() synchronously in an async context. Use "
            "await sync_to_async(run_due)() instead."
        ) from error
    done: list[Task] = []
    seen: set[int] = set()
    try:
        while True:
            if scheduled:
                Task.objects.scheduled().exclude(pk__in=seen).run_now()
            while promote_due():
                pass
            tasks = _claim(worker, queues, max(limit - len(done), 1))
            if not tasks:
                return done
            if len(done) >= limit:
                raise AssertionError(f"More than {limit} tasks; do they enqueue themselves?")
            for task in tasks:
                seen.add(task.pk)
                _run(task, raise_errors)
                done.append(Task.objects.get(pk=task.pk))
    finally:
        _leave(worker)


@contextmanager
def immediately(*, raise_errors: bool = True) -> Iterator[None]:
    """
    Run each task that is enqueued within this block at once, whatever its schedule.

    The task is stored, claimed and finished as by a worker. The call that enqueues it returns
    after the attempt has ended, and the returned task has its new status. If ``raise_errors`` is
    True and the attempt fails, that call raises TaskFailed. If it is False, the failure is only
    recorded::

        with immediately():
            task = notify_user(user.id)
        assert task.status == Status.SUCCESSFUL
    """

    def run(task: Task) -> None:
        before(task)
        worker = Worker.register()
        try:
            ours = Task.objects.filter(pk=task.pk)
            ours.run_now()
            for claimed in claim_these(ours.ready(), worker):
                _run(claimed, raise_errors)
        finally:
            _leave(worker)
        task.refresh_from_db()

    before = storing.after_storing
    storing.after_storing = run
    try:
        yield
    finally:
        storing.after_storing = before


def enqueued(function: Any = None, /, *args: Any, **kwargs: Any) -> TaskQuerySet:
    """
    Return the tasks that wait to be run (SCHEDULED, READY or HELD) as a queryset.

    Without arguments, return all of them. ``function`` is a background function, a task of
    Django's API or the name of one, and limits the result to its tasks. If parameters are given
    too, return the tasks that wait now with exactly these parameters, whether passed by position
    or by keyword. A default that a call leaves out doesn't count. Raise TypeError if the function
    can't be called with these parameters.

    Filter the queryset by anything else: ``enqueued(notify_user).filter(queue="mail")``.
    """
    tasks: TaskQuerySet = Task.objects.waiting()
    _check_parameters(function, args, kwargs)
    if function is None:
        return tasks
    tasks = tasks.filter(task_name=_name_of(function))
    if args or kwargs:
        wanted = _by_name(_name_of(function), _dumped(function, args, kwargs))
        rows = tasks.values_list("pk", "task_name", "task_params")
        tasks = tasks.filter(pk__in=[pk for pk, *row in rows if _by_name(*row) == wanted])
    return tasks


def assert_enqueued(function: Any, /, *args: Any, **kwargs: Any) -> None:
    """
    Raise AssertionError unless a task of the function with these parameters waits to be run.

    Without parameters, tasks with any parameters count. With ``times=3``, exactly three tasks must
    wait. By default, one or more must. If the function has a parameter named ``times``, then
    ``times=`` is that parameter. Count ``enqueued(…)`` then. The error lists the tasks that wait.
    """
    parameters = _parameters(_name_of(function)) or {}
    times = None if "times" in parameters else kwargs.pop("times", None)
    number = enqueued(function, *args, **kwargs).count()
    if number == times or (times is None and number):
        return
    waiting = "\n".join(
        f"  {task.task_name} {task.task_params}" for task in enqueued().order_by("pk")[:20]
    )
    waits = "waits 1 time" if number == 1 else f"waits {number} times"
    raise AssertionError(
        f"{_name_of(function)} with {_dumped(function, args, kwargs)} {waits}"
        + (f", not {times}" if times is not None else "")
        + f". These tasks wait:\n{waiting or '  none'}"
    )


def _name_of(function: Any) -> str:
    return function if isinstance(function, str) else _registered(function).name


def _registered(function: Any) -> registry.RegisteredFunction:
    """Return the function as the registry has it. A task of Django's API has a module_path."""
    if isinstance(function, BackgroundFunction):
        return function
    return registry.find_loaded(function.module_path)


def _dumped(function: Any, args: Any, kwargs: Any) -> str:
    if isinstance(function, str):
        return dump_params(args, kwargs)
    return _registered(function).dump_params(args, kwargs)


def _parameters(name: str) -> Mapping[str, inspect.Parameter] | None:
    """Return the parameters of the function, or None if it is not known here."""
    try:
        return registry.find_loaded(name).parameters
    except UnknownTask:
        return None


def _by_name(task_name: str, task_params: str) -> str:
    """
    Return the parameters as a text that is the same however they were passed.

    Calls by position and by keyword have the same text, if the function is known here. The texts of
    1, 1.0 and true are different.
    """
    try:
        args, kwargs = load_params(task_params)
    except MalformedTask:
        return task_params
    params: Any = [args, kwargs]
    if (parameters := _parameters(task_name)) is not None:
        signature = inspect.Signature(list(parameters.values()))
        with suppress(TypeError):  # The signature may have changed since the call.
            params = signature.bind(*args, **kwargs).arguments
    return json.dumps(params, sort_keys=True)


def _check_parameters(function: Any, args: Any, kwargs: Any) -> None:
    """
    Raise TypeError for parameters with which no task could have been enqueued.

    That no such task waits would prove nothing.
    """
    try:
        if function is None and (args or kwargs):
            raise TypeError("Without a function there are no parameters")
        if not isinstance(function, str) and (args or kwargs):
            _registered(function).bind(args, kwargs)
    except TypeError as error:
        raise TypeError(
            f"{error}. What follows the function are its parameters; tasks of a queue are "
            "enqueued(…).filter(queue=…)."
        ) from None


def _claim(worker: Worker, queues: Sequence[str] | None, limit: int) -> list[Task]:
    """
    Claim the tasks that a worker would claim next, and return those to run.

    Tasks that a worker would set aside are set aside here too.
    """
    while True:
        snapshot = take_snapshot(queues, limit=_ALL)
        heads = [head for head in snapshot.heads if head.queue not in snapshot.paused]
        if heads:
            best = max(heads, key=lambda head: head.priority)
            tasks = claim_queue(worker, best.queue, min(limit, _BATCH), None, best.priority)
        else:
            tasks = claim_suspect(worker, queues, snapshot.paused)
        if not tasks:
            return []
        startable, on_hold, unknown = sort_claims(tasks, snapshot.on_hold)
        set_aside_claims(on_hold, HeldFor.TYPE)
        set_aside_claims(unknown, HeldFor.UNKNOWN)
        if startable:
            return startable


def _leave(worker: Worker) -> None:
    """Release what the worker has claimed and not finished, and deregister it."""
    held = Task.objects.running().filter(locked_by=worker)
    release_claims(list(held))
    worker.deregister()


def _run(task: Task, raise_errors: bool) -> None:
    connection = connections[task._state.db or DEFAULT_DB_ALIAS]
    if connection.in_atomic_block:
        with transaction.atomic(using=connection.alias):
            outcome = execute(task)
            # In a worker, rows that a task wrote before it failed stay. So roll back only after a
            # database error, which may have broken the transaction.
            if isinstance(outcome.exception, DatabaseError):
                transaction.set_rollback(True, using=connection.alias)
    else:
        outcome = execute(task)
    if outcome.exception is not None and is_ctrl_c(outcome.exception):
        raise outcome.exception  # Somebody wants to end the tests. The claim is released.
    statuses = finish_attempts([outcome])
    dispatch([(outcome, statuses[task.pk])] if task.pk in statuses else [])
    if raise_errors and outcome.exception is not None and not _asked_for(outcome):
        raise TaskFailed(f"{task} failed: {brief(outcome.exception)}") from outcome.exception


def _asked_for(outcome: Outcome) -> bool:
    return isinstance(outcome.exception, Retry) and outcome.status == Status.SCHEDULED
