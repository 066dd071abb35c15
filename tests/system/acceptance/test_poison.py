"""Tasks that take their process with them."""

from __future__ import annotations

import pytest

from bgtask.models import Attempt, Task
from bgtask.status import AttemptOutcome, Status
from tests import tasks

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize(
    "poison", [pytest.param(tasks.kill_process, marks=pytest.mark.sample), tasks.exit_process]
)
def test_poison_task_fails_and_other_tasks_succeed(worker, until_ended, execution_log, poison):
    tasks.note.enqueue_many([(number,) for number in range(100)])
    task = poison()
    tasks.note.enqueue_many([(number,) for number in range(100)])

    until_ended(worker("--processes=2", "--threads=4"), timeout=120)

    task.refresh_from_db()
    assert (task.status, task.crashes) == (Status.FAILED, 3)
    assert task.error_class == "bgtask.WorkerLost"
    assert len(execution_log.executions(task.pk)) == 3
    history = Attempt.objects.filter(task=task)
    assert [attempt.outcome for attempt in history] == [AttemptOutcome.LOST] * 3
    assert Task.objects.succeeded().count() == 200
    assert not Task.objects.succeeded().filter(crashes__gt=1).exists()


def test_suspect_runs_alone_in_its_process(worker, until_running, until_ended, execution_log):
    # The task runs for a second, so that its process would have the time to start others.
    task = tasks.kill_process.using(priority=1)(1)
    child = worker("--processes=2", "--threads=4")
    for times in (1, 2, 3):
        until_running(task, child, times)
        tasks.note.enqueue_many([(number, 0.05) for number in range(100)])

    until_ended(child, timeout=120)

    as_suspect = execution_log.executions(task.pk)[1:]
    assert len(as_suspect) == 2
    for one in as_suspect:
        # The process ends with the suspect. So everything that started later was beside it.
        beside_it = [
            other
            for other in execution_log.executions()
            if other.start.pid == one.start.pid
            and (other.task, other.start.token) != (task.pk, one.start.token)
            and (other.end is None or other.end.monotonic > one.start.monotonic)
        ]
        assert beside_it == []


def test_two_poison_tasks_both_fail(worker, until_ended):
    tasks.kill_process()
    tasks.exit_process()

    until_ended(worker("--processes=2"), timeout=120)

    assert set(Task.objects.values_list("status", "crashes")) == {(Status.FAILED, 3)}


def test_poison_task_fails_once_its_attempts_are_used_up(worker, until_ended, execution_log):
    task = Task.objects.enqueue("tests.tasks.kill_process", max_attempts=1)

    until_ended(worker("--processes=2", MAX_CRASHES=9), timeout=120)

    # One that may not count, since nobody knew that it had started, and the one allowed.
    task.refresh_from_db()
    assert (task.status, task.attempts, task.crashes) == (Status.FAILED, 1, 2)
    assert len(execution_log.executions(task.pk)) == 2
