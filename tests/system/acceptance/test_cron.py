"""Workers that cron starts, which may overlap and may be killed."""

from __future__ import annotations

import pytest

from bgtask.models import Attempt, Task, Worker
from bgtask.status import AttemptOutcome
from tests import tasks
from tests.helpers import eventually
from tests.system.acceptance.conftest import statuses

pytestmark = pytest.mark.acceptance


@pytest.mark.sample
def test_overlapping_runs_run_each_task_once(worker, execution_log):
    tasks.note.enqueue_many([(number, 0.01) for number in range(300)])

    runs = [worker("--duration=2", LEASE=60) for _ in range(2)]
    runs.append(worker("--drain", LEASE=60))

    assert [run.wait(60) for run in runs] == [0, 0, 0]
    assert statuses() == {"SUCCESSFUL": 300}
    assert len(execution_log.executions()) == 300
    assert not Worker.objects.living().exists()


def test_next_run_rescues_the_tasks_of_a_killed_run(worker, gate, until_running):
    task = tasks.wait_for(gate.path)
    killed = worker("--drain")
    until_running(task, killed)
    killed.kill()
    gate.open()

    eventually(
        lambda: worker("--drain").wait() == 0 and statuses() == {"SUCCESSFUL": 1}, timeout=60
    )

    assert Attempt.objects.get().outcome == AttemptOutcome.LOST


def test_drain_waits_for_the_tasks_of_a_silent_worker(worker, gate, until_running):
    task = tasks.wait_for(gate.path)
    killed = worker("--drain")
    until_running(task, killed)
    killed.kill()
    gate.open()
    eventually(Task.objects.abandoned().exists, timeout=30)

    assert worker("--drain").wait() == 0

    assert statuses() == {"SUCCESSFUL": 1}
