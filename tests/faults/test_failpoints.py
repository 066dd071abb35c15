"""Matrix row 5: killed at each boundary of claim, run and finish, again and again."""

from __future__ import annotations

import signal

import pytest

from tests.faults import tasks
from tests.faults.failpoints import SWEEP, VARIABLE
from tests.helpers import eventually


@pytest.mark.parametrize("place", ["after:claim", "after:run", "before:finish", "after:finish"])
def test_killed_at_this_boundary_a_task_is_neither_lost_nor_run_for_ever(stage, settled, place):
    committed = {tasks.nap(0.02).pk for _ in range(30)}
    doomed = [stage.worker(env={VARIABLE: f"{place}=kill@{hit}"}) for hit in (1, 2)]

    for child in doomed:
        eventually(lambda child=child: not child.is_running(), timeout=30, explain=child.output)
        assert child.wait() == -signal.SIGKILL
    stage.worker()
    audit = settled(committed)

    assert audit.statuses == {"SUCCESSFUL": 30}
    assert max(audit.executions) <= 1 + len(doomed)  # A death adds at most one.


@pytest.mark.thorough
@pytest.mark.parametrize("place", SWEEP)
def test_killed_at_this_boundary_two_hundred_times(stage, settled, place):
    committed = {tasks.quick(number).pk for number in range(500)}

    def is_dead(child):
        committed.add(tasks.quick().pk)  # Or all might be done before the last has met its end.
        return not child.is_running()

    for _round in range(50):
        doomed = [stage.worker(env={VARIABLE: f"{place}=kill@{hit}"}) for hit in (1, 2, 3, 5)]
        for child in doomed:
            eventually(
                lambda child=child: is_dead(child), timeout=120, interval=0.1, explain=child.output
            )
            assert child.wait() == -signal.SIGKILL
    stage.worker()
    audit = settled(committed, timeout=300)

    assert max(audit.executions) <= 3  # For three crashes convict.
