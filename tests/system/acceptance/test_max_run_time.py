"""Tasks that run longer than they may."""

from __future__ import annotations

import pytest

from bgtask.models import Attempt, Task
from bgtask.status import AttemptOutcome, Status
from tests import tasks
from tests.helpers import eventually
from tests.system.acceptance.conftest import until_alive

pytestmark = pytest.mark.acceptance


@pytest.mark.sample
def test_timed_out_task_is_retried_and_its_late_outcome_is_dropped(
    worker, gate, until_running, until_ended, execution_log
):
    task = tasks.wait_for(gate.path)
    child = worker("--threads=2", MAX_RUN_TIME=1)
    until_running(task, child)

    timed_out = eventually(Attempt.objects.first, timeout=30, explain=child.output)
    gate.open()
    (first,) = eventually(
        lambda: [one for one in execution_log.executions(task.pk) if one.end], explain=child.output
    )
    # The late outcome has been dealt with once the same worker has written a later one.
    later = tasks.note()
    eventually(Task.objects.succeeded().filter(pk=later.pk).exists, explain=child.output)

    task.refresh_from_db()
    assert (task.status, task.attempts, task.crashes) == (Status.SCHEDULED, 1, 0)
    assert timed_out.outcome == AttemptOutcome.TIMED_OUT
    wait = task.run_at - timed_out.finished_at
    assert wait.total_seconds() == pytest.approx(6, abs=1)

    Task.objects.retrying().run_now()
    until_ended(child)

    _, second = execution_log.executions(task.pk)
    task.refresh_from_db()
    assert (task.status, task.attempts, task.token) == (Status.SUCCESSFUL, 2, second.start.token)
    assert second.start.token > first.start.token
    assert Attempt.objects.count() == 1


def test_max_run_time_of_a_task_overrides_the_setting(worker, gate, until_running):
    task = Task.objects.enqueue("tests.tasks.wait_for", [gate.path], max_run_time=1.0)
    child = worker("--threads=2", MAX_RUN_TIME=3600)
    until_running(task, child)

    attempt = eventually(Attempt.objects.first, timeout=30, explain=child.output)

    assert attempt.outcome == AttemptOutcome.TIMED_OUT
    assert "longer than its 1 seconds" in attempt.message


def test_timed_out_task_fails_once_its_attempts_are_used_up(
    worker, gate, until_running, until_ended
):
    task = Task.objects.enqueue(
        "tests.tasks.wait_for", [gate.path], max_run_time=1.0, max_attempts=1
    )
    child = worker("--threads=2")
    until_running(task, child)

    until_ended(child)

    task.refresh_from_db()
    assert (task.status, task.error_class) == (Status.FAILED, "bgtask.TimedOut")


def test_another_worker_rescues_a_timed_out_task_of_a_living_worker(worker, gate, until_running):
    witness = worker("--queue=nothing")
    until_alive(witness)
    task = Task.objects.enqueue("tests.tasks.wait_for", [gate.path], max_run_time=1.0)
    child = worker("--threads=2", LEASE=3600, HEARTBEAT_INTERVAL=1)
    until_running(task, child)

    eventually(Task.objects.retrying().exists, timeout=30, explain=witness.output)

    assert Attempt.objects.get().outcome == AttemptOutcome.TIMED_OUT
