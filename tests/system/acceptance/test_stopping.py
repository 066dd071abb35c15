"""A worker that is told to stop."""

from __future__ import annotations

import signal

import pytest

from bgtask.lifecycle.rescue import rescue_tasks
from bgtask.models import Attempt, Task, Worker
from bgtask.status import AttemptOutcome, Status, WorkerState
from tests import tasks
from tests.helpers import eventually
from tests.system.acceptance.conftest import statuses, until_alive

pytestmark = pytest.mark.acceptance
either_signal = pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])


@either_signal
def test_idle_worker_stops_at_once(worker, signum):
    child = worker("--sleep=3600")
    until_alive(child)

    child.send_signal(signum)

    assert child.wait() == 0
    assert Worker.objects.get().state == WorkerState.DEAD


@pytest.mark.sample
@either_signal
def test_stopping_worker_finishes_its_task_and_starts_no_other(
    worker, gate, until_running, execution_log, signum
):
    task = tasks.wait_for(gate.path)
    child = worker()
    until_running(task, child)
    tasks.note()

    child.send_signal(signum)
    eventually(Worker.objects.filter(state=WorkerState.STOPPING).exists, explain=child.output)
    gate.open()

    assert child.wait() == 0
    assert statuses() == {"SUCCESSFUL": 1, "READY": 1}
    assert len(execution_log.executions()) == 1
    assert Worker.objects.get().state == WorkerState.DEAD


@either_signal
def test_second_signal_stops_without_releasing_running_tasks(
    worker, gate, until_running, until_ended, execution_log, signum
):
    task = tasks.wait_for(gate.path)
    child = worker()
    until_running(task, child)
    child.send_signal(signum)
    eventually(Worker.objects.filter(state=WorkerState.STOPPING).exists, explain=child.output)

    child.send_signal(signum)

    assert child.wait() not in (0, None)
    assert "still running; they will be rescued" in child.output()
    assert Task.objects.running().get() == task

    gate.open()
    until_ended(worker())

    assert statuses() == {"SUCCESSFUL": 1}
    assert len(execution_log.executions(task.pk)) == 2
    assert Attempt.objects.get().outcome == AttemptOutcome.INTERRUPTED


def test_worker_leaves_running_tasks_after_the_grace_period(worker, gate, until_running):
    task = tasks.wait_for(gate.path)
    child = worker(GRACE_PERIOD=0.5)
    until_running(task, child)

    child.send_signal(signal.SIGTERM)

    assert child.wait() not in (0, None)
    assert Task.objects.running().get() == task


def test_stops_during_a_task_never_make_it_a_suspect(worker, gate, until_running, until_ended):
    task = tasks.wait_for.using(max_attempts=1)(gate.path)
    for times in (1, 2):
        child = worker(GRACE_PERIOD=0.1, MAX_CRASHES=2)
        until_running(task, child, times)
        child.send_signal(signal.SIGTERM)
        assert child.wait() not in (0, None)

    gate.open()
    until_ended(worker(MAX_CRASHES=2))

    task.refresh_from_db()
    assert (task.status, task.attempts, task.crashes) == (Status.SUCCESSFUL, 1, 0)
    history = Attempt.objects.values_list("outcome", flat=True)
    assert list(history) == [AttemptOutcome.INTERRUPTED] * 2


def test_task_that_kills_a_worker_after_its_duration_is_a_suspect(worker, gate, until_running):
    task = tasks.wait_for(gate.path)
    child = worker("--duration=1")
    until_running(task, child)
    eventually(Worker.objects.filter(state=WorkerState.STOPPING).exists, explain=child.output)

    child.send_signal(signal.SIGKILL)
    child.wait()
    Worker.objects.declare_dead()
    rescue_tasks()

    task.refresh_from_db()
    assert (task.status, task.crashes) == (Status.READY, 1)
    assert Attempt.objects.get().outcome == AttemptOutcome.LOST


def test_stop_in_the_wait_after_the_duration_is_a_stop(worker, gate, until_running):
    task = tasks.wait_for(gate.path)
    child = worker("--duration=1", GRACE_PERIOD=0.1)
    until_running(task, child)
    eventually(Worker.objects.filter(state=WorkerState.STOPPING).exists, explain=child.output)

    child.send_signal(signal.SIGTERM)
    assert child.wait() not in (0, None)
    Worker.objects.declare_dead()
    rescue_tasks()

    task.refresh_from_db()
    assert (task.status, task.crashes) == (Status.READY, 0)


@pytest.mark.sample
def test_stopping_worker_releases_prefetched_tasks(worker, gate, until_running):
    # It claims ahead once it knows that they are quick.
    tasks.noop.using(priority=2).enqueue_many([()] * 300)
    slow = tasks.wait_for.using(priority=1)(gate.path)
    tasks.noop.using(priority=0).enqueue_many([()] * 300)
    child = worker()
    until_running(slow, child)
    claimed_ahead = Task.objects.running().exclude(pk=slow.pk)
    assert eventually(claimed_ahead.exists, explain=child.output)

    child.send_signal(signal.SIGTERM)
    eventually(Worker.objects.filter(state=WorkerState.STOPPING).exists, explain=child.output)
    eventually(lambda: not claimed_ahead.exists(), explain=child.output)
    gate.open()

    assert child.wait() == 0
    assert statuses() == {"SUCCESSFUL": 301, "READY": 300}
    left = Task.objects.ready()
    assert not left.exclude(attempts=0, locked_by=None, status=Status.READY).exists()
    assert left.filter(token__gt=0).exists()


def test_outcomes_are_written_before_it_leaves(worker, execution_log):
    tasks.note.enqueue_many([(number,) for number in range(2_000)])
    child = worker("--threads=2")
    eventually(lambda: len(execution_log.executions()) > 100, timeout=30, explain=child.output)

    child.send_signal(signal.SIGTERM)

    assert child.wait() == 0
    assert Task.objects.succeeded().count() == len(execution_log.executions())
    assert set(statuses()) <= {"SUCCESSFUL", "READY"}
