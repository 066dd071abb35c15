"""For the tests of projects that use bgtask: run what is due, here and now.

    from bgtask.testing import enqueued, immediately, run_due

    def test_a_new_member_is_welcomed(db, mailoutbox):
        register("ada@example.org")

        assert enqueued(notify_user).count() == 1
        run_due()
        assert len(mailoutbox) == 1

The same claim, the same execution and the same finish as in a worker, but in the caller's thread,
connection and transaction, with a savepoint for each task. Works in a TestCase.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.core.exceptions import SynchronousOnlyOperation
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, transaction

from bgtask import registry
from bgtask.background import BackgroundFunction
from bgtask.exceptions import Retry
from bgtask.models import Task, TaskQuerySet, Worker
from bgtask.models import enqueue as storing
from bgtask.models.outcome import Outcome
from bgtask.runner.announcer import announce
from bgtask.runner.execution import execute
from bgtask.serialization import dump_params
from bgtask.status import HeldFor, Status

__all__ = ["TaskFailed", "assert_enqueued", "enqueued", "immediately", "run_due"]

_BATCH = 100
_ALL = 1_000_000  # Queues.


class TaskFailed(AssertionError):
    """A task failed while it was run for a test; its error is the cause."""


def run_due(
    *,
    queues: str | Sequence[str] | None = None,
    raise_errors: bool = True,
    limit: int = 10_000,
    scheduled: bool = False,
) -> list[Task]:
    """
    Run what is due, and what becomes due by it; return the tasks in the order they were run.

    The error of a task that fails is raised as TaskFailed, unless ``raise_errors`` is False: then
    it is recorded as a worker would. ``scheduled`` runs what is scheduled for later, too, each at
    most once. ``limit`` ends tasks that go on enqueuing themselves.
    """
    queues = [queues] if isinstance(queues, str) else queues
    try:
        worker = Worker.register(queues or ())
    except SynchronousOnlyOperation as error:
        raise SynchronousOnlyOperation(
            "run_due() waits for the database, which a coroutine must not: write "
            "await sync_to_async(run_due)()."
        ) from error
    done: list[Task] = []
    seen: set[int] = set()
    try:
        while True:
            if scheduled:
                Task.objects.scheduled().exclude(pk__in=seen).run_now()
            while Task.objects.promote():
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
        held = Task.objects.running().filter(locked_by=worker)
        Task.objects.release(list(held))
        worker.leave()


@contextmanager
def immediately(*, raise_errors: bool = True) -> Iterator[None]:
    """
    Within it each task is run as it is enqueued, whatever its schedule.

    It is stored, claimed and finished as by a worker; the call returns once it has ended.
    """

    def run(task: Task) -> None:
        before(task)
        worker = Worker.register()
        try:
            ours = Task.objects.filter(pk=task.pk)
            ours.run_now()
            for claimed in ours.ready().take(worker):
                _run(claimed, raise_errors)
        finally:
            worker.leave()
        task.refresh_from_db()

    before = storing.after_storing
    storing.after_storing = run
    try:
        yield
    finally:
        storing.after_storing = before


def enqueued(
    function: BackgroundFunction[Any, Any] | str | None = None, *args: Any, **kwargs: Any
) -> TaskQuerySet:
    """Tasks that wait to be run: all, those of a function, or those with just these parameters."""
    tasks: TaskQuerySet = Task.objects.waiting()
    _check_parameters(function, args, kwargs)
    if function is None:
        return tasks
    name = function if isinstance(function, str) else function.name
    tasks = tasks.filter(task_name=name)
    if args or kwargs:
        tasks = tasks.filter(task_params=dump_params(args, kwargs))
    return tasks


def assert_enqueued(
    function: BackgroundFunction[Any, Any] | str,
    *args: Any,
    times: int | None = None,
    **kwargs: Any,
) -> None:
    """Fail, saying what is waiting instead, unless the function waits with these parameters."""
    number = enqueued(function, *args, **kwargs).count()
    if number == times or (times is None and number):
        return
    name = function if isinstance(function, str) else function.name
    waiting = "\n".join(
        f"  {task.task_name} {task.task_params}" for task in enqueued().order_by("pk")[:20]
    )
    raise AssertionError(
        f"{name} with {dump_params(args, kwargs)} waits {number} times"
        + (f", not {times}" if times is not None else "")
        + f". These tasks wait:\n{waiting or '  none'}"
    )


def _check_parameters(
    function: BackgroundFunction[Any, Any] | str | None, args: Any, kwargs: Any
) -> None:
    """Refuse what no task could have been enqueued with: that none waits would say nothing."""
    try:
        if function is None and (args or kwargs):
            raise TypeError("Without a function there are no parameters")
        if isinstance(function, BackgroundFunction) and (args or kwargs):
            function.bind(args, kwargs)
    except TypeError as error:
        raise TypeError(
            f"{error}. What follows the function are its parameters; tasks of a queue are "
            "enqueued(…).filter(queue=…)."
        ) from None


def _claim(worker: Worker, queues: Sequence[str] | None, limit: int) -> list[Task]:
    """What a worker would claim next, without what it would park."""
    while True:
        outlook = Task.objects.outlook(queues, limit=_ALL)
        heads = [head for head in outlook.heads if head.queue not in outlook.paused]
        if heads:
            best = max(heads, key=lambda head: head.priority)
            tasks = Task.objects.claim(worker, best.queue, min(limit, _BATCH), None, best.priority)
        else:
            tasks = Task.objects.claim_suspect(worker, queues, outlook.paused)
        if not tasks:
            return []
        on_hold = [task for task in tasks if task.task_name in outlook.on_hold]
        unknown = [
            task for task in tasks if task not in on_hold and not registry.knows(task.task_name)
        ]
        Task.objects.park(on_hold, HeldFor.TYPE)
        Task.objects.park(unknown, HeldFor.UNKNOWN)
        if startable := [task for task in tasks if task not in on_hold and task not in unknown]:
            return startable


def _run(task: Task, raise_errors: bool) -> None:
    connection = connections[task._state.db or DEFAULT_DB_ALIAS]
    if connection.in_atomic_block:
        with transaction.atomic(using=connection.alias):
            outcome = execute(task)
            # What a worker's task wrote before it failed stays; only what is broken must go.
            if isinstance(outcome.exception, DatabaseError):
                transaction.set_rollback(True, using=connection.alias)
    else:
        outcome = execute(task)
    statuses = Task.objects.finish([outcome])
    announce([(outcome, statuses[task.pk])] if task.pk in statuses else [])
    if raise_errors and outcome.exception is not None and not _asked_for(outcome):
        raise TaskFailed(f"{task} failed: {outcome.exception!r}") from outcome.exception


def _asked_for(outcome: Outcome) -> bool:
    return isinstance(outcome.exception, Retry) and outcome.status == Status.SCHEDULED
