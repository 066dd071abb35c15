"""A worker that dies, and what others make of it."""

from __future__ import annotations

import signal

import pytest

from bgtask.models import Attempt, Task, Worker
from bgtask.status import AttemptOutcome, Status, WorkerState
from tests import tasks
from tests.helpers import eventually
from tests.system.acceptance.conftest import statuses, until_alive

pytestmark = pytest.mark.acceptance


@pytest.mark.sample
def test_another_worker_finishes_the_tasks_of_a_killed_worker(
    worker, gate, until_running, until_ended, execution_log
):
    task = tasks.wait_for(gate.path)
    killed = worker()
    until_running(task, killed)

    killed.send_signal(signal.SIGKILL)
    killed.wait()
    gate.open()
    other = worker()
    until_ended(other)

    first, second = execution_log.executions(task.pk)
    assert (first.end, first.start.pid, second.start.pid) == (None, killed.pid, other.pid)
    task.refresh_from_db()
    # The lost attempt is given back, since a task that was no suspect may never have started.
    assert (task.status, task.attempts, task.crashes) == (Status.SUCCESSFUL, 1, 1)
    lost = Attempt.objects.get()
    assert (lost.task, lost.number, lost.outcome) == (task, 1, AttemptOutcome.LOST)
    assert lost.worker.endswith(f":{killed.pid}")
    assert "sent no heartbeat" in lost.message
    assert Worker.objects.get(pid=killed.pid).state == WorkerState.DEAD


def test_tasks_are_not_rescued_before_the_lease_ends(
    worker, gate, until_running, until_ended, execution_log
):
    task = tasks.wait_for(gate.path)
    killed = worker(LEASE=3600, HEARTBEAT_INTERVAL=1)
    until_running(task, killed)
    killed.kill()

    gate.open()
    tasks.note()
    child = worker("--drain")

    assert child.wait() == 0
    assert Task.objects.running().get() == task
    assert len(execution_log.executions(task.pk)) == 1


def test_worker_that_started_first_rescues_too(worker, gate, until_running, until_ended):
    witness = worker("--queue=nothing")
    until_alive(witness)
    task = tasks.wait_for(gate.path)
    killed = worker()
    until_running(task, killed)

    killed.kill()

    eventually(Task.objects.ready().exists, timeout=30, explain=witness.output)
    assert Attempt.objects.get().outcome == AttemptOutcome.LOST


def test_prefetched_tasks_are_rescued_and_run_once(
    worker, gate, until_running, until_ended, execution_log
):
    tasks.noop.using(priority=2).enqueue_many([()] * 300)
    slow = tasks.wait_for.using(priority=1)(gate.path)
    tasks.note.using(priority=0).enqueue_many([(number,) for number in range(100)])
    killed = worker()
    until_running(slow, killed)
    eventually(Task.objects.running().exclude(pk=slow.pk).exists, explain=killed.output)

    killed.kill()
    gate.open()
    until_ended(worker(), timeout=90)

    assert statuses() == {"SUCCESSFUL": 401}
    notes = Task.objects.filter(task_name__endswith="note")
    assert all(len(execution_log.executions(task.pk)) == 1 for task in notes)
    assert set(notes.values_list("attempts", flat=True)) == {1}
