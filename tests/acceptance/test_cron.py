"""Workers that cron starts, which may overlap and may be killed."""

from __future__ import annotations

import pytest

from bgtask.models import Attempt, Task, Worker
from bgtask.status import AttemptOutcome
from tests import tasks
from tests.acceptance.conftest import statuses
from tests.helpers import eventually

pytestmark = pytest.mark.acceptance


@pytest.mark.sample
def test_overlapping_runs_do_no_harm(worker, ledger):
    tasks.note.enqueue_many([(number, 0.01) for number in range(300)])

    runs = [worker("--duration=2", LEASE=60) for _ in range(2)]
    runs.append(worker("--drain", LEASE=60))

    assert [run.wait(60) for run in runs] == [0, 0, 0]
    assert statuses() == {"SUCCESSFUL": 300}
    assert len(ledger.executions()) == 300
    assert not Worker.objects.living().exists()


def test_next_runs_rescue_what_a_killed_one_held(worker, gate, until_running):
    task = tasks.wait_for(gate.path)
    killed = worker("--drain")
    until_running(task, killed)
    killed.kill()
    gate.open()

    eventually(
        lambda: worker("--drain").wait() == 0 and statuses() == {"SUCCESSFUL": 1}, timeout=60
    )

    assert Attempt.objects.get().outcome == AttemptOutcome.LOST


def test_drain_is_not_done_while_a_silent_worker_holds_something(worker, gate, until_running):
    task = tasks.wait_for(gate.path)
    killed = worker("--drain")
    until_running(task, killed)
    killed.kill()
    gate.open()
    eventually(Task.objects.abandoned().exists, timeout=30)

    assert worker("--drain").wait() == 0

    assert statuses() == {"SUCCESSFUL": 1}
