"""Test that an operator can ask a running task to stop, and can cancel it by force."""

from __future__ import annotations

import signal

import pytest

from bgtask.models import Attempt, Task
from bgtask.status import AttemptOutcome, Status
from tests import tasks
from tests.helpers import eventually
from tests.system.acceptance.conftest import statuses

pytestmark = pytest.mark.acceptance


@pytest.mark.sample
def test_task_learns_that_an_operator_has_cancelled_it(
    worker, until_running, until_ended, execution_log
):
    task = tasks.heed()
    child = worker("--threads=2")
    until_running(task, child)

    assert task.cancel()
    until_ended(child)

    assert statuses() == {"CANCELLED": 1}
    assert Attempt.objects.get().outcome == AttemptOutcome.CANCELLED
    assert len(execution_log.executions(task.pk)) == 1


def test_task_learns_that_its_worker_is_about_to_stop(worker, until_running):
    task = tasks.heed()
    child = worker()
    until_running(task, child)

    child.send_signal(signal.SIGTERM)

    assert child.wait() == 0
    assert statuses() == {"SUCCESSFUL": 1}


def test_task_that_ignores_a_cancel_is_ended_by_force_and_others_are_not(
    worker, gate, until_running, until_ended, execution_log
):
    deaf, neighbour = tasks.wait_for(gate.path), tasks.wait_for(gate.path)
    supervisor = worker("--processes=2", GRACE_PERIOD=1)
    for task in (deaf, neighbour):
        until_running(task, supervisor)
    (before,) = (one.start.pid for one in execution_log.executions(deaf.pk))

    assert deaf.cancel(force=True)
    eventually(
        lambda: f"Process {before} ended" in supervisor.output(),
        timeout=60,
        explain=supervisor.output,
    )
    gate.open()
    until_ended(supervisor)

    deaf.refresh_from_db()
    assert (deaf.status, deaf.crashes) == (Status.CANCELLED, 0)
    assert Task.objects.succeeded().get() == neighbour
    assert len(execution_log.executions(neighbour.pk)) == 1
