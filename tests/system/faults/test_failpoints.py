"""Matrix row 5: killed at each boundary of claim, run, finish and rescue, again and again."""

from __future__ import annotations

import itertools
import signal
from collections import defaultdict
from pathlib import Path

import pytest

from bgtask.lifecycle.rescue import rescue_tasks
from bgtask.models import Attempt, Task, Worker
from bgtask.status import AttemptOutcome, Status
from tests.helpers import eventually
from tests.system.faults import tasks
from tests.system.faults.failpoints import (
    INSIDE_CLAIM,
    INSIDE_FINISH,
    INSIDE_RESCUE,
    SWEEP,
    VARIABLE,
)

MARIADB_ONLY = pytest.mark.vendor("mysql")


@pytest.mark.parametrize(
    "place",
    [
        "after:claim",
        pytest.param("after:run", marks=pytest.mark.sample),
        "before:finish",
        "after:finish",
    ],
)
def test_kill_at_each_boundary_neither_loses_nor_repeats_a_task(testbed, settled, place):
    committed = {tasks.nap(0.02).pk for _ in range(20)}
    committed |= {tasks.stumble(times).pk for times in (1, 9) * 5}
    doomed = [testbed.worker(env={VARIABLE: f"{place}=kill@{hit}"}) for hit in (1, 2)]

    _see_them_die(doomed)
    testbed.worker()
    audit = settled(committed)

    assert audit.statuses == {"SUCCESSFUL": 25, "FAILED": 5}
    _see_that_history_agrees(testbed)
    assert not Task.objects.filter(crashes__gt=len(doomed)).exists()  # A death adds at most one.


@pytest.mark.parametrize("place", ["before:claim", "after:claim"])
def test_kill_during_a_claim_of_many_queues_loses_no_task(testbed, settled, place):
    committed = {tasks.quick.using(queue=f"tenant-{number}")(number).pk for number in range(40)}
    doomed = [
        testbed.worker("--threads=2", env={VARIABLE: f"{place}=kill@{hit}"}) for hit in (1, 2)
    ]

    _see_them_die(doomed)
    testbed.worker()

    assert settled(committed).statuses == {"SUCCESSFUL": 40}
    _see_that_history_agrees(testbed)


def test_kill_while_writing_failures_leaves_none_without_history(testbed, settled):
    committed = set()
    doomed = [testbed.worker(env={VARIABLE: f"{place}=kill@2"}) for place in INSIDE_FINISH]

    _see_them_die(doomed, meanwhile=lambda: committed.update(_all_sorts(6)))
    testbed.worker()
    settled(committed)

    _see_that_history_agrees(testbed)


def test_kill_during_a_rescue_rescues_nothing(testbed, settled, tmp_path):
    committed = {tasks.wait_for(str(tmp_path / "gate")).pk for _ in range(6)}
    holder = testbed.worker("--threads=6")
    eventually(
        lambda: len(testbed.execution_log.executions()) == 6, timeout=30, explain=holder.output
    )
    testbed.kill(holder.pid)
    Worker.objects.declare_dead()
    (tmp_path / "gate").touch()

    _see_them_die([testbed.worker(env={VARIABLE: f"{place}=kill"}) for place in INSIDE_RESCUE])

    assert Task.objects.running().filter(crashes=0).count() == 6
    assert not Attempt.objects.exists()
    _see_them_die([testbed.worker(env={VARIABLE: "after:rescue:COMMIT=kill"})])
    testbed.worker()
    audit = settled(committed)
    assert audit.statuses == {"SUCCESSFUL": 6}
    _see_that_history_agrees(testbed)


@MARIADB_ONLY
def test_kill_during_a_claim_claims_nothing(testbed, settled):
    committed = {tasks.quick(number).pk for number in range(20)}

    _see_them_die([testbed.worker(env={VARIABLE: f"{place}=kill"}) for place in INSIDE_CLAIM])

    assert Task.objects.ready().filter(attempts=0, token=0).count() == 20
    testbed.worker()
    assert settled(committed).executions == {1: 20}
    assert not Attempt.objects.exists()


def test_draining_worker_does_not_miss_tasks_rescued_during_its_poll(testbed, settled, tmp_path):
    task = tasks.wait_for(str(tmp_path / "gate"))
    holder = testbed.worker()
    eventually(testbed.execution_log.executions, timeout=30, explain=holder.output)
    testbed.kill(holder.pid)
    Worker.objects.declare_dead()
    (tmp_path / "gate").touch()

    # It leaves the rescue to another, who is at it while this one has looked what is ready.
    places = "before:rescue=disk_full@1-100000,after:snapshot=stop@2"
    worker = testbed.worker("--drain", env={VARIABLE: places})
    eventually(lambda: _is_stopped(worker.pid), timeout=30, explain=worker.output)
    rescue_tasks()
    worker.send_signal(signal.SIGCONT)

    assert worker.wait() == 0
    assert settled({task.pk}).statuses == {"SUCCESSFUL": 1}


def _is_stopped(pid):
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


@pytest.mark.thorough
@pytest.mark.parametrize(
    "place",
    [*SWEEP, *INSIDE_FINISH, *(pytest.param(place, marks=MARIADB_ONLY) for place in INSIDE_CLAIM)],
)
def test_two_hundred_kills_at_each_boundary_lose_no_task(testbed, settled, place):
    committed = _all_sorts(500)

    for _round in range(50):
        doomed = [testbed.worker(env={VARIABLE: f"{place}=kill@{hit}"}) for hit in (1, 2, 3, 5)]
        # Enqueue more: else all tasks might be finished before the last worker is killed.
        _see_them_die(doomed, meanwhile=lambda: committed.update(_all_sorts(3)))
    testbed.worker()
    audit = settled(committed, timeout=300)

    _see_that_history_agrees(testbed)
    # A task fails at its third crash or its third failure, so two of each may come before.
    assert max(audit.executions) <= 2 + 2 + 1


@pytest.mark.thorough
@pytest.mark.parametrize("place", INSIDE_RESCUE)
def test_two_hundred_kills_during_a_rescue_lose_no_task(testbed, settled, place):
    committed = set()

    for _round in range(50):
        committed |= {tasks.quick().pk for _ in range(12)}
        holder = testbed.worker("--threads=12", env={VARIABLE: "after:claim=kill"})
        _see_them_die([holder])
        Worker.objects.declare_dead()
        # A page of them is one transaction.
        hits = (1, 1, 1, 1) if "COMMIT" in place else (1, 2, 3, 5)
        _see_them_die([testbed.worker(env={VARIABLE: f"{place}=kill@{hit}"}) for hit in hits])
        assert Task.objects.lost().count() == 12
        testbed.worker("--drain").wait()
    audit = settled(committed)

    assert audit.statuses == {"SUCCESSFUL": len(committed)}
    _see_that_history_agrees(testbed)
    assert set(Task.objects.values_list("crashes", flat=True)) == {1}


def _all_sorts(count):
    """Enqueue tasks that succeed at once, at the second attempt, or never, and return their ids."""
    one_by_one = itertools.cycle([tasks.quick, lambda: tasks.stumble(1), lambda: tasks.stumble(9)])
    return {enqueue().pk for enqueue in itertools.islice(one_by_one, count)}


def _see_them_die(doomed, meanwhile=lambda: None):
    def is_dead(child):
        meanwhile()
        return not child.is_running()

    for child in doomed:
        eventually(
            lambda child=child: is_dead(child), timeout=120, interval=0.1, explain=child.output
        )
        assert child.wait() == -signal.SIGKILL


def _see_that_history_agrees(testbed):
    """Each execution has one row of history, unless it succeeded; and what was counted, too."""
    executed = defaultdict(set)
    for one in testbed.execution_log.executions():
        executed[one.task].add(one.start.token)
    history = defaultdict(set)
    for task, token, outcome in Attempt.objects.values_list("task", "token", "outcome"):
        history[task, AttemptOutcome(outcome)].add(token)
    for task in Task.objects.all():
        failed, lost = (
            history[task.pk, AttemptOutcome.FAILED],
            history[task.pk, AttemptOutcome.LOST],
        )
        succeeded = {task.token} if task.status == Status.SUCCESSFUL else set()
        assert executed[task.pk] - lost == failed | succeeded
        assert task.crashes == len(lost)
        # The first loss of an attempt does not count, for it may not have started.
        assert task.attempts == len(failed | succeeded) + max(len(lost) - 1, 0)
