"""A worker that stands still for a while and then goes on, as virtual machines do."""

from __future__ import annotations

import signal

import pytest

from bgtask.models import Attempt, Task, Worker
from bgtask.status import AttemptOutcome, Status, WorkerState
from tests import tasks
from tests.helpers import eventually
from tests.system.acceptance.conftest import until_alive

pytestmark = pytest.mark.acceptance


@pytest.mark.sample
def test_outcome_of_a_worker_declared_dead_is_dropped(
    worker, gate, until_running, until_ended, execution_log
):
    task = tasks.wait_for(gate.path)
    frozen = worker()
    until_running(task, frozen)
    frozen.send_signal(signal.SIGSTOP)
    other = worker()
    until_running(task, other, times=2)

    gate.open()
    until_ended(other)
    before = Task.objects.values().get()
    frozen.send_signal(signal.SIGCONT)
    eventually(
        lambda: "its outcome is dropped" in frozen.output(), timeout=30, explain=frozen.output
    )

    assert Task.objects.values().get() == before
    assert before["last_worker"].endswith(f":{other.pid}")
    assert (before["status"], before["attempts"]) == (Status.SUCCESSFUL, 1)
    assert Attempt.objects.get().outcome == AttemptOutcome.LOST
    assert {one.start.pid for one in execution_log.executions(task.pk)} == {frozen.pid, other.pid}


def test_worker_declared_dead_registers_again_and_continues(
    worker, gate, until_running, until_ended, execution_log
):
    task = tasks.wait_for(gate.path)
    frozen = worker("--sleep=0.5")
    until_running(task, frozen)
    frozen.send_signal(signal.SIGSTOP)
    other = worker()
    until_running(task, other, times=2)
    gate.open()
    until_ended(other)
    other.kill()

    frozen.send_signal(signal.SIGCONT)
    later = tasks.note()
    until_ended(frozen)

    assert [one.start.pid for one in execution_log.executions(later.pk)] == [frozen.pid]
    first, second = Worker.objects.filter(pid=frozen.pid).order_by("started_at")
    assert (first.state, second.state) == (WorkerState.DEAD, WorkerState.ALIVE)


def test_prefetched_tasks_of_a_worker_declared_dead_run_once(
    worker, gate, until_running, until_ended, execution_log
):
    tasks.noop.using(priority=2).enqueue_many([()] * 300)
    slow = tasks.wait_for.using(priority=1)(gate.path)
    tasks.note.using(priority=0).enqueue_many([(number,) for number in range(200)])
    frozen = worker()
    until_running(slow, frozen)
    eventually(Task.objects.running().exclude(pk=slow.pk).exists, explain=frozen.output)
    frozen.send_signal(signal.SIGSTOP)

    other = worker()
    until_running(slow, other, times=2)
    gate.open()
    frozen.send_signal(signal.SIGCONT)
    until_ended(other, frozen)

    notes = Task.objects.filter(task_name__endswith="note").values_list("pk", flat=True)
    executions = [one.task for one in execution_log.executions() if one.task != slow.pk]
    assert sorted(executions) == sorted(notes)


def test_standing_still_for_less_than_the_lease_changes_nothing(
    worker, gate, until_running, until_ended, execution_log
):
    witness = worker("--queue=nothing", LEASE=3600)
    until_alive(witness)
    task = tasks.wait_for(gate.path)
    frozen = worker(LEASE=3600)
    until_running(task, frozen)
    frozen.send_signal(signal.SIGSTOP)
    beats = Worker.objects.filter(pid=witness.pid).values_list("heartbeat_at", flat=True)
    before = beats.get()
    eventually(lambda: beats.get() > before, explain=witness.output)

    frozen.send_signal(signal.SIGCONT)
    gate.open()
    until_ended(frozen)

    assert len(execution_log.executions(task.pk)) == 1
    assert not Attempt.objects.exists()
    assert Worker.objects.get(pid=frozen.pid).state == WorkerState.ALIVE
