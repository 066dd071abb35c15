"""Matrix rows 36 and 37: clocks that are wrong, and clocks that jump."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bgtask.models import Attempt, Task
from tests.helpers import eventually
from tests.system.faults import tasks
from tests.system.faults.clocks import DATABASE, HOST


@pytest.mark.parametrize(
    "offset",
    [pytest.param(600, marks=pytest.mark.sample), pytest.param(-600, marks=pytest.mark.thorough)],
)
def test_wrong_clock_of_a_host_has_no_effect(testbed, settled, offset):
    committed = {tasks.nap(0.05).pk for _ in range(40)}
    committed |= {tasks.quick(schedule=1).pk}
    testbed.worker("--threads=2", env={HOST: str(offset)}, LEASE=30, HEARTBEAT_INTERVAL=1)
    testbed.worker("--threads=2", LEASE=30, HEARTBEAT_INTERVAL=1)

    audit = settled(committed)

    assert audit.executions == {1: 41}
    assert not Attempt.objects.exists()


def test_delay_follows_the_database_clock(testbed, settled):
    task = tasks.hopeless()
    testbed.worker(env={HOST: "600"})

    settled({task.pk})

    starts = [one.start.monotonic for one in testbed.execution_log.executions(task.pk)]
    assert len(starts) == 3
    assert all(1 <= later - earlier < 10 for earlier, later in pairwise(starts))


@pytest.mark.parametrize("step", [-300, 300])
def test_jump_of_the_database_clock_loses_no_task(testbed, settled, step):
    clock = testbed.directory / "clock"
    clock.write_text("0")
    committed = {tasks.nap(0.1).pk for _ in range(60)}
    for _ in range(2):
        testbed.worker("--threads=2", env={DATABASE: str(clock)})
    eventually(
        lambda: len(testbed.execution_log.executions()) >= 10, timeout=30, explain=testbed.output
    )

    clock.write_text(str(step))
    audit = settled(committed)

    assert audit.statuses == {"SUCCESSFUL": 60}
    # If the clock jumps forward, all leases end at once. Then a worker may rescue the tasks of
    # another that is alive, so these tasks run twice.
    assert max(audit.executions) <= (1 if step < 0 else 2)
    assert not Task.objects.filter(attempts__gt=1).exists()
