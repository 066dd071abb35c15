"""Matrix rows 44, 48, 50–56, 66, 70: what tasks, rows, operators and logs do to a worker."""

from __future__ import annotations

import random
import signal

import pytest
from django.db import connection

from bgtask.models import Attempt, Task
from bgtask.status import Status
from tests.factories import TaskFactory
from tests.faults import tasks
from tests.faults.failpoints import VARIABLE
from tests.helpers import eventually

LONG_LEASE = {"LEASE": 30, "HEARTBEAT": 1}
RAISES = tasks.MISBEHAVIOURS[: tasks.MISBEHAVIOURS.index("NUL") + 1]


def test_no_task_harms_the_one_after_it_in_its_thread(stage, settled):
    for how in tasks.MISBEHAVIOURS:
        tasks.misbehave(how)
        tasks.query()
        tasks.query()

    worker = stage.worker(**LONG_LEASE)
    audit = settled()

    assert set(Task.objects.filter(task_name__endswith="query").values_list("status")) == {
        (Status.SUCCESSFUL,)
    }
    failed = Task.objects.failed().order_by("pk").values_list("task_params", flat=True)
    assert [params for params in failed if "fork" in params or "children" in params] == []
    assert len(failed) == len(RAISES)
    # A connection that was closed behind Django's back costs the next task one attempt.
    assert audit.executions == {1: 3 * len(tasks.MISBEHAVIOURS) - 1, 2: 1}
    assert worker.is_running()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=20) == 0


def test_task_that_forks_has_one_outcome(stage, settled):
    committed = {tasks.misbehave("fork").pk for _ in range(20)}
    stage.worker("--threads=2", **LONG_LEASE)

    audit = settled(committed)

    assert audit.statuses == {"SUCCESSFUL": 20}
    assert not Attempt.objects.exists()


@pytest.mark.vendor("postgresql")
def test_no_task_leaves_a_session_idle_in_its_transaction(stage, settled):
    for how in ("transaction", "autocommit", "savepoint"):
        tasks.misbehave(how)
    stage.worker(**LONG_LEASE)
    settled()

    assert not stage.server.execute(
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


def test_rows_edited_by_hand_fail_and_harm_nobody(stage, settled):
    bad = [TaskFactory(task_name="tests.faults.tasks.quick").pk for _ in MALFORMED]
    for pk, params in zip(bad, MALFORMED, strict=True):
        Task.objects.filter(pk=pk).update(task_params=params)
    good = {tasks.quick(number).pk for number in range(20)}

    stage.worker(**LONG_LEASE)
    audit = settled()

    ended = Task.objects.filter(pk__in=bad).values_list("status", "error_class")
    assert set(ended) == {("FAILED", "malformed")}
    assert Attempt.objects.filter(error_class="malformed").count() == len(bad)
    assert audit.statuses == {"FAILED": len(bad), "SUCCESSFUL": len(good)}
    assert {one.task for one in stage.ledger.executions()} == good


def test_signature_has_changed_since_the_enqueue(stage):
    task = TaskFactory(
        task_name="tests.faults.tasks.nap", task_params='[[], {"gone": "a secret of somebody"}]'
    )

    stage.worker(**LONG_LEASE)

    retrying = eventually(Task.objects.retrying().filter(pk=task.pk).first, timeout=30)
    assert (retrying.error_class, retrying.attempts) == ("TypeError", 1)
    assert "gone" in retrying.last_error
    assert "secret" not in retrying.last_error


def test_outcome_that_the_database_refuses_keeps_no_other_from_being_written(stage, settled):
    committed = {tasks.quick(number).pk for number in range(50)}
    stage.worker(env={VARIABLE: "before:finish=refused@1"}, **LONG_LEASE)

    audit = settled(committed)

    assert audit.statuses == {"SUCCESSFUL": 50}
    assert audit.executions == {1: 50}


def test_operators_press_everything_at_once_as_tasks_run(stage, settled):
    dice = random.Random(66)
    committed = {tasks.nap(0.02).pk for _ in range(200)}
    for _ in range(2):
        stage.worker("--threads=2", **LONG_LEASE)

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
def test_log_that_cannot_be_written_changes_no_outcome(stage, settled, arguments):
    committed = {tasks.quick(number).pk for number in range(20)}
    committed |= {tasks.hopeless().pk}
    env = {} if arguments else {"BGTASK_TEST_CLOSED": "2"}
    worker = stage.worker(*arguments, env=env, **LONG_LEASE)

    audit = settled(committed)

    assert audit.executions == {1: 20, 3: 1}
    assert worker.is_running()


def test_worker_holds_no_more_after_many_tasks_than_after_some(stage, settled):
    from tests.faults.stage import figures

    worker = stage.worker("--threads=4", **LONG_LEASE)
    measured = []
    for count in (500, 1_500, 1_500):
        tasks.quick.enqueue_many([(number,) for number in range(count)])
        [tasks.misbehave("NUL") for _ in range(20)]
        [tasks.query() for _ in range(100)]
        settled(timeout=90)
        measured.append({**figures(worker.pid), "connections": len(_connections(stage))})

    warm, *_, last = measured
    assert last["threads"] == warm["threads"]
    assert last["connections"] <= 4 + 5  # Those of the tasks' threads, and of the worker's own.
    # A thread that comes to its connection late brings three of SQLite's files; a leak, hundreds.
    assert last["files"] <= warm["files"] + 4 * 3
    assert last["kilobytes"] < warm["kilobytes"] * 1.15 + 2_000


def _connections(stage):
    connection.close()
    return stage.server.connection_ids()
