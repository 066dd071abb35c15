"""Matrix rows 13, 44, 48, 50–56, 66, 70: what tasks, rows, operators and logs do to a worker."""

from __future__ import annotations

import random
import resource
import signal
from pathlib import Path

import pytest
from django.db import connection

from bgtask.models import Attempt, Task
from bgtask.status import Status
from tests.factories import TaskFactory
from tests.helpers import eventually
from tests.processes import descendants, open_files
from tests.system.faults import tasks
from tests.system.faults.failpoints import VARIABLE
from tests.system.faults.testbed import figures

LONG_LEASE = {"LEASE": 30, "HEARTBEAT_INTERVAL": 1}
RAISES = tasks.MISBEHAVIOURS[: tasks.MISBEHAVIOURS.index("NUL") + 1]


@pytest.mark.sample
def test_no_task_affects_the_next_task_of_its_thread(testbed, settled):
    for how in tasks.MISBEHAVIOURS:
        tasks.misbehave(how)
        tasks.query()
        tasks.query()

    worker = testbed.worker(**LONG_LEASE)
    audit = settled()

    assert set(Task.objects.filter(task_name__endswith="query").values_list("status")) == {
        (Status.SUCCESSFUL,)
    }
    failed = Task.objects.failed().order_by("pk").values_list("task_params", flat=True)
    assert [params for params in failed if "fork" in params or "children" in params] == []
    assert len(failed) == len(RAISES)
    # Not even a connection that was closed behind Django's back costs the next task an attempt.
    assert audit.executions == {1: 3 * len(tasks.MISBEHAVIOURS)}
    assert worker.is_running()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=20) == 0


def test_task_that_runs_out_of_memory_fails_like_any_other(testbed, settled):
    worker = testbed.worker("--threads=2", **LONG_LEASE)
    settled({tasks.query().pk for _ in range(20)})
    _leave_room_for(3, worker.pid)

    greedy, neighbours = set(), set()
    for _ in range(3):
        greedy.add(tasks.hold_memory(blocks=16).pk)
        neighbours |= {tasks.nap(0.02).pk for _ in range(10)}
        neighbours |= {tasks.query().pk for _ in range(10)}
    settled(greedy | neighbours)
    modest = {tasks.hold_memory(blocks=2).pk}
    audit = settled(greedy | neighbours | modest)

    history = Attempt.objects.values_list("task", "number", "outcome", "error_class")
    assert sorted(history) == [
        (pk, number, "failed", "MemoryError") for pk in sorted(greedy) for number in (1, 2)
    ]
    assert set(Task.objects.failed().values_list("pk", flat=True)) == greedy
    assert audit.executions == {1: 20 + len(neighbours) + len(modest), 2: len(greedy)}
    assert worker.is_running()


def test_idle_worker_holds_nothing_of_the_tasks_that_have_failed(testbed, settled):
    worker = testbed.worker("--threads=2", **LONG_LEASE)
    settled({tasks.query().pk})
    before = figures(worker.pid)["kilobytes"]

    settled({tasks.hold_memory(blocks=4, fail=True).pk})

    eventually(
        lambda: figures(worker.pid)["kilobytes"] < before + (tasks.BLOCK >> 10),
        explain=lambda: (before, figures(worker.pid)),
    )


def test_outcomes_wait_for_memory_and_hold_none_meanwhile(testbed, settled):
    worker = testbed.worker(env={VARIABLE: "before:finish=no_memory@1-4"}, **LONG_LEASE)
    eventually(lambda: "takes tasks" in worker.output(), timeout=30, explain=worker.output)
    _leave_room_for(3, worker.pid)

    greedy = tasks.hold_memory(blocks=16)
    modest = tasks.hold_memory(blocks=2)  # It runs while the end of the other is not written.
    committed = {tasks.quick(number).pk for number in range(20)}
    audit = settled(committed | {greedy.pk, modest.pk})

    assert "could not be written, and are kept: MemoryError" in worker.output()
    assert audit.executions == {1: 21, 2: 1}
    assert set(Attempt.objects.values_list("task", "error_class")) == {(greedy.pk, "MemoryError")}
    values = Task.objects.filter(pk__in=committed).order_by("pk").values_list("return_value")
    assert [int(value) for (value,) in values] == list(range(20))
    assert worker.is_running()


def test_task_that_uses_all_memory_affects_no_other_task(testbed, settled):
    supervisor = testbed.worker("--processes=2", "--threads=2")
    settled({tasks.query().pk for _ in range(20)})
    _leave_room_for(3, supervisor.pid, *descendants(supervisor.pid))  # And those to come.

    greedy = tasks.cling(3)
    neighbours = {tasks.nap(0.05).pk for _ in range(20)} | {tasks.query().pk for _ in range(20)}
    settled(neighbours | {greedy.pk})

    assert Task.objects.succeeded().filter(pk__in=neighbours).count() == len(neighbours)
    assert supervisor.is_running()


def _leave_room_for(blocks, *pids):
    """As a container does: not much more than they have by now, and half a block for others."""
    pages = max(int(Path("/proc", str(pid), "statm").read_text().split()[0]) for pid in pids)
    limit = pages * resource.getpagesize() + int((blocks + 0.5) * tasks.BLOCK)
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))


def test_task_that_forks_has_one_outcome(testbed, settled):
    committed = {tasks.misbehave("fork").pk for _ in range(20)}
    testbed.worker("--threads=2", **LONG_LEASE)

    audit = settled(committed)

    assert audit.statuses == {"SUCCESSFUL": 20}
    assert not Attempt.objects.exists()


@pytest.mark.vendor("postgresql")
def test_no_task_leaves_a_session_idle_in_its_transaction(testbed, settled):
    for how in ("transaction", "autocommit", "savepoint"):
        tasks.misbehave(how)
    testbed.worker(**LONG_LEASE)
    settled()

    assert not testbed.server.execute(
        "SELECT pid, query FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    )


MALFORMED = [
    "",
    "{",
    "null",
    "[]",
    "[1, 2]",
    "[[], []]",
    "[{}, []]",
    "[[NaN], {}]",
    '"text"',
    "\x01",
    "[[" + "[" * 50_000 + "]" * 50_000 + "], {}]",
    "[[" + "9" * 5_000 + "], {}]",
    '[["' + "x" * 300_000 + '"], {}]',
]


def test_rows_edited_by_hand_fail_and_affect_no_other_task(testbed, settled):
    bad = [TaskFactory(task_name="tests.system.faults.tasks.quick").pk for _ in MALFORMED]
    for pk, params in zip(bad, MALFORMED, strict=True):
        Task.objects.filter(pk=pk).update(task_params=params)
    good = {tasks.quick(number).pk for number in range(20)}

    testbed.worker(**LONG_LEASE)
    audit = settled()

    ended = Task.objects.filter(pk__in=bad).values_list("status", "error_class")
    assert set(ended) == {("FAILED", "malformed")}
    assert Attempt.objects.filter(error_class="malformed").count() == len(bad)
    assert audit.statuses == {"FAILED": len(bad), "SUCCESSFUL": len(good)}
    assert {one.task for one in testbed.execution_log.executions()} == good


def test_attempt_fails_if_the_signature_has_changed(testbed):
    task = TaskFactory(
        task_name="tests.system.faults.tasks.nap",
        task_params='[[], {"gone": "a secret of somebody"}]',
    )

    testbed.worker(**LONG_LEASE)

    retrying = eventually(Task.objects.retrying().filter(pk=task.pk).first, timeout=30)
    assert (retrying.error_class, retrying.attempts) == ("TypeError", 1)
    assert "gone" in retrying.last_error
    assert "secret" not in retrying.last_error


def test_refused_outcome_does_not_block_others(testbed, settled):
    committed = {tasks.quick(number).pk for number in range(50)}
    testbed.worker(env={VARIABLE: "before:finish=refused@1"}, **LONG_LEASE)

    audit = settled(committed)

    assert audit.statuses == {"SUCCESSFUL": 50}
    assert audit.executions == {1: 50}


def test_concurrent_actions_of_operators_lose_no_task(testbed, settled):
    dice = random.Random(66)
    committed = {tasks.nap(0.02).pk for _ in range(200)}
    for _ in range(2):
        testbed.worker("--threads=2", **LONG_LEASE)

    for _ in range(150):
        some = Task.objects.filter(pk__in=dice.sample(sorted(committed), 10))
        dice.choice(
            [
                some.cancel,
                lambda some=some: some.cancel(force=True),
                some.hold,
                some.unhold,
                some.requeue,
                lambda some=some: some.requeue(reset_attempts=True),
                some.run_now,
            ]
        )()
    Task.objects.unhold()
    audit = settled(committed)

    assert set(audit.statuses) <= {"SUCCESSFUL", "CANCELLED"}


@pytest.mark.parametrize("arguments", [["--log-file=/dev/full"], []])
def test_log_that_cannot_be_written_changes_no_outcome(testbed, settled, arguments):
    committed = {tasks.quick(number).pk for number in range(20)}
    committed |= {tasks.hopeless().pk}
    env = {} if arguments else {"BGTASK_TEST_CLOSED": "2"}
    worker = testbed.worker(*arguments, env=env, **LONG_LEASE)

    audit = settled(committed)

    assert audit.executions == {1: 20, 3: 1}
    assert worker.is_running()


def test_worker_holds_no_more_after_many_tasks_than_after_some(testbed, settled):
    worker = testbed.worker("--threads=4", **LONG_LEASE)
    measured = []
    for count in (500, 1_500, 1_500):
        tasks.quick.enqueue_many([(number,) for number in range(count)])
        [tasks.misbehave("NUL") for _ in range(20)]
        [tasks.query() for _ in range(100)]
        settled(timeout=90)
        measured.append({**figures(worker.pid), "connections": _connections(testbed, worker)})

    warm, *_, last = measured
    assert last["threads"] == warm["threads"]
    assert last["connections"] <= 4 + 5  # Those of the tasks' threads, and of the worker's own.
    # A thread that comes to its connection late brings three of SQLite's files; a leak, hundreds.
    assert last["files"] <= warm["files"] + 4 * 3
    assert last["kilobytes"] < warm["kilobytes"] * 1.15 + 2_000


def _connections(testbed, worker):
    if not testbed.server.has_server:  # Then each is a file that it has open.
        return open_files(worker.pid).count(testbed.server.settings["NAME"])
    connection.close()
    return len(testbed.server.connection_ids())
