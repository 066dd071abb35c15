"""Matrix rows 36 and 37: clocks that are wrong, and clocks that jump."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bgtask.models import Attempt, Task
from tests.faults import tasks
from tests.faults.clocks import DATABASE, HOST
from tests.helpers import eventually


@pytest.mark.parametrize(
    "offset",
    [pytest.param(600, marks=pytest.mark.sample), pytest.param(-600, marks=pytest.mark.thorough)],
)
def test_clock_of_a_host_is_wrong(stage, settled, offset):
    committed = {tasks.nap(0.05).pk for _ in range(40)}
    committed |= {tasks.quick(schedule=1).pk}
    stage.worker("--threads=2", env={HOST: str(offset)}, LEASE=30, HEARTBEAT_INTERVAL=1)
    stage.worker("--threads=2", LEASE=30, HEARTBEAT_INTERVAL=1)

    audit = settled(committed)

    assert audit.executions == {1: 41}
    assert not Attempt.objects.exists()


def test_back_off_is_by_the_clock_of_the_database(stage, settled):
    task = tasks.hopeless()
    stage.worker(env={HOST: "600"})

    settled({task.pk})

    starts = [one.start.monotonic for one in stage.ledger.executions(task.pk)]
    assert len(starts) == 3
    assert all(1 <= later - earlier < 10 for earlier, later in pairwise(starts))


@pytest.mark.parametrize("step", [-300, 300])
def test_clock_of_the_database_jumps(stage, settled, step):
    clock = stage.directory / "clock"
    clock.write_text("0")
    committed = {tasks.nap(0.1).pk for _ in range(60)}
    for _ in range(2):
        stage.worker("--threads=2", env={DATABASE: str(clock)})
    eventually(lambda: len(stage.ledger.executions()) >= 10, timeout=30, explain=stage.output)

    clock.write_text(str(step))
    audit = settled(committed)

    assert audit.statuses == {"SUCCESSFUL": 60}
    # Forward, all leases are over at once, and whoever is quick takes from the living.
    assert max(audit.executions) <= (1 if step < 0 else 2)
    assert not Task.objects.filter(attempts__gt=1).exists()
