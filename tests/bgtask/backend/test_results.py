"""What a TaskResult says in each status of its row, with each history."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from bgtask import exceptions
from bgtask.backend import api
from bgtask.lifecycle.claim import claim_these, release_claims, set_aside_claims
from bgtask.lifecycle.rescue import rescue_tasks
from bgtask.models import Attempt, Task, Worker
from bgtask.status import HeldFor
from bgtask.testing import run_due
from tests.bgtask.backend import jobs
from tests.factories import WorkerFactory

pytestmark = pytest.mark.django_db


def claim(result, worker=None):
    ours = Task.objects.filter(result_id=result.id)
    ours.run_now()
    (task,) = claim_these(ours.ready(), worker or WorkerFactory())
    return task


def lose(result):
    """Let a worker claim the task, and die."""
    worker = WorkerFactory()
    claim(result, worker)
    Worker.objects.filter(pk=worker.pk).declare_dead()
    rescue_tasks()


def interrupt(result):
    """Let a worker claim the task and leave it when it is stopped."""
    worker = WorkerFactory(stopped=True)
    claim(result, worker)
    Worker.objects.filter(pk=worker.pk).declare_dead()
    rescue_tasks()


def row(result):
    return Task.objects.get(result_id=result.id)


def nothing(result):
    pass


def run(result):
    run_due(raise_errors=False, scheduled=True)


def run_three_times(result):
    for _ in range(3):
        run(result)


def hold(result):
    row(result).hold()


def set_aside(result):
    set_aside_claims([claim(result)], HeldFor.UNKNOWN)


def release(result):
    release_claims([claim(result)])


def cancel(result):
    row(result).cancel()


def cancel_by_force(result):
    row(result).cancel(force=True)


def requeue(result):
    row(result).requeue()


def requeue_all_over(result):
    row(result).requeue(reset_attempts=True)


def time_out(result):
    Task.objects.filter(result_id=result.id).update(deadline_at=row(result).locked_at)
    rescue_tasks()


READY, RUNNING = api.TaskResultStatus.READY, api.TaskResultStatus.RUNNING
FAILED, SUCCESSFUL = api.TaskResultStatus.FAILED, api.SUCCESSFUL
VALUE_ERROR, CANCELLED = "builtins.ValueError", "bgtask.exceptions.Cancelled"
LOST, TIMED_OUT = "bgtask.WorkerLost", "bgtask.TimedOut"

add, fail = jobs.add, jobs.fail
IN_AN_HOUR: Any = timedelta(hours=1)  # django-stubs does not know that this is allowed.
LATER = add.using(run_after=IN_AN_HOUR)
thrice, third = jobs.fail_three_times, jobs.succeed_the_third_time


@pytest.mark.parametrize(
    ("task", "steps", "status", "attempts", "errors"),
    [
        # status of the row: READY, SCHEDULED, HELD, RUNNING
        (add, [nothing], READY, 0, []),
        (LATER, [nothing], READY, 0, []),
        (add, [hold], READY, 0, []),
        (add, [set_aside], READY, 0, []),
        (add, [release], READY, 0, []),
        (add, [claim], RUNNING, 1, []),
        # SUCCESSFUL, FAILED, CANCELLED
        (add, [run], SUCCESSFUL, 1, []),
        (fail, [run], FAILED, 1, [VALUE_ERROR]),
        (thrice, [run], READY, 1, [VALUE_ERROR]),
        (thrice, [run, claim], RUNNING, 2, [VALUE_ERROR]),
        (thrice, [run, hold], READY, 1, [VALUE_ERROR]),
        (thrice, [run_three_times], FAILED, 3, [VALUE_ERROR] * 3),
        (third, [run_three_times], SUCCESSFUL, 3, [VALUE_ERROR] * 2),
        (add, [cancel], FAILED, 0, [CANCELLED]),
        (add, [hold, cancel], FAILED, 0, [CANCELLED]),
        (thrice, [run, cancel], FAILED, 1, [VALUE_ERROR, CANCELLED]),
        (add, [claim, cancel_by_force], FAILED, 1, ["bgtask.Cancelled"]),
        (jobs.stop_if_asked, [run], FAILED, 1, [CANCELLED]),
        # A worker that dies, and one that is stopped
        (add, [lose], READY, 0, [LOST]),
        (add, [lose, run], SUCCESSFUL, 1, [LOST]),
        (add, [lose, lose], FAILED, 1, [LOST, LOST]),
        (add, [interrupt], READY, 0, []),
        (add, [interrupt, run], SUCCESSFUL, 1, []),
        (thrice, [claim, time_out], READY, 1, [TIMED_OUT]),
        (add, [claim, time_out], FAILED, 1, [TIMED_OUT]),
        # An operator who requeues
        (add, [run, requeue], READY, 1, []),
        (add, [run, requeue, claim], RUNNING, 2, []),
        (add, [run, requeue, run], SUCCESSFUL, 2, []),
        (add, [run, requeue_all_over], READY, 0, []),
        (add, [run, requeue_all_over, run], SUCCESSFUL, 1, []),
        (fail, [run, requeue], READY, 1, [VALUE_ERROR]),
        (fail, [run, requeue, run], FAILED, 2, [VALUE_ERROR] * 2),
        (add, [cancel, requeue], READY, 0, []),
        (add, [cancel, requeue, run], SUCCESSFUL, 1, []),
    ],
)
def test_the_result_says_what_happened(task, steps, status, attempts, errors):
    result = task.enqueue(*([1] if task.func is add.func else []))
    for step in steps:
        step(result)

    read = task.get_result(result.id)

    stored = row(result)
    assert read.status == status
    assert [error.exception_class_path for error in read.errors] == errors
    assert read.attempts == attempts == stored.attempts
    assert read.finished_at == stored.finished_at
    assert (read.finished_at is not None) == read.is_finished
    assert read.enqueued_at == result.enqueued_at == stored.enqueued_at
    was_claimed = any(
        step not in (nothing, hold, set_aside, release, cancel, requeue) for step in steps
    )
    if stored.status in ("RUNNING", "SUCCESSFUL") or stored.history.exists():
        assert was_claimed
        assert read.started_at <= read.last_attempted_at
        assert read.started_at >= read.enqueued_at - timedelta(milliseconds=2)
    if not was_claimed:
        assert read.started_at is read.last_attempted_at is None
    result.refresh()
    for name in ("status", "errors", "worker_ids", "started_at", "last_attempted_at"):
        assert getattr(result, name) == getattr(read, name)


def test_each_attempt_names_its_worker():
    result = jobs.succeed_the_third_time.enqueue()
    run_three_times(result)
    stored = row(result)

    workers = [attempt.worker for attempt in stored.history.order_by("token")]
    assert jobs.add.get_backend().get_result(result.id).worker_ids == [
        *workers, stored.last_worker,
    ]  # fmt: skip


def test_the_worker_of_a_success_before_a_requeue_is_not_known_any_more():
    result = jobs.add.enqueue(1)
    for step in (run, requeue, run):
        step(result)

    assert jobs.add.get_result(result.id).worker_ids == ["", row(result).last_worker]


@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        ("bgtask.WorkerLost", exceptions.WorkerLost),
        ("bgtask.Interrupted", exceptions.Interrupted),
        ("bgtask.TimedOut", exceptions.TimedOut),
        ("bgtask.Unstorable", exceptions.Unstorable),
        ("bgtask.Cancelled", exceptions.Cancelled),
        ("malformed", exceptions.MalformedTask),
        ("ValueError", ValueError),
        ("django.db.utils.IntegrityError", None),
    ],
)
def test_the_class_of_an_error_can_be_imported(stored, kind):
    result = jobs.fail.enqueue()
    run(result)
    Attempt.objects.update(error_class=stored)

    (error,) = jobs.fail.get_result(result.id).errors

    assert error.exception_class is kind if kind else issubclass(error.exception_class, Exception)


def test_a_result_can_be_read_after_an_operator_moved_its_task():
    result = jobs.add.enqueue(1)
    Task.objects.all().move("a-queue-outside-of-QUEUES")
    Task.objects.all().reprioritise(5_000)

    read = jobs.add.get_result(result.id)

    assert (read.task.queue_name, read.task.priority) == ("a-queue-outside-of-QUEUES", 5_000)


@pytest.mark.parametrize(
    "changes",
    [{"task_params": "no JSON"}, {"return_value": "no JSON"}, {"attempts": 2**31 - 1}],
)
def test_a_result_can_be_read_after_the_row_was_edited(changes):
    result = jobs.add.enqueue(1)
    run(result)
    Task.objects.update(**changes)

    read = jobs.add.get_result(result.id)

    assert read.status == SUCCESSFUL
    assert len(read.worker_ids) <= 10_000


def test_a_row_with_malformed_parameters_fails_and_can_be_read():
    result = jobs.add.enqueue(1)
    Task.objects.update(task_params="no JSON")
    run(result)

    read = jobs.add.get_result(result.id)

    assert (read.status, read.args) == (FAILED, [])
    assert read.errors[0].exception_class is exceptions.MalformedTask


def test_a_result_of_another_alias_can_be_read():
    result = jobs.add.using(backend="patient").enqueue(1)

    read = jobs.add.get_result(result.id)

    assert (read.backend, read.task.backend) == ("patient", "patient")


def test_reading_takes_a_second_query_once_the_task_was_claimed(django_assert_num_queries):
    result = jobs.add.enqueue(1)
    run(result)

    with django_assert_num_queries(2):
        result.refresh()
