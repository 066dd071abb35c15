"""
A row with edited numbers, dates or texts fails alone. The other tasks still run.

The module is long because each column that can be edited by hand has its own case.
"""

from __future__ import annotations

import pytest
from django.db import connection

from bgtask.db import DatabaseNow, operations_for
from bgtask.lifecycle.attempts import Outcome
from bgtask.lifecycle.claim import claim_queue, claim_suspect, release_claims, take_snapshot
from bgtask.lifecycle.finish import finish_attempts
from bgtask.lifecycle.promote import promote_due
from bgtask.lifecycle.rescue import rescue_tasks
from bgtask.models import Attempt, QueueStats, Task, TaskStats
from bgtask.status import Status
from bgtask.testing import run_due
from bgtask.worker import Runner
from bgtask.worker.executor import execute
from bgtask.worker.statistics import Statistics
from tests.factories import TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db

SQLITE, POSTGRESQL, MYSQL = ("sqlite",), ("postgresql",), ("mysql",)
EVERYWHERE = SQLITE + POSTGRESQL + MYSQL
MOST = 2**31 - 1

# Column, value in SQL, where it can be stored, what becomes of the task.
ROWS = [
    ("max_run_time", "1e300", EVERYWHERE, "malformed"),
    ("max_run_time", "-1e300", EVERYWHERE, "malformed"),
    ("max_run_time", "4e9", EVERYWHERE, "malformed"),
    ("max_run_time", "-1", EVERYWHERE, "malformed"),
    ("max_run_time", "0", EVERYWHERE, "malformed"),
    ("max_run_time", "1e-300", EVERYWHERE, ""),
    ("max_run_time", "9e999", SQLITE, "malformed"),  # Infinity.
    ("max_run_time", "'abc'", SQLITE, "malformed"),
    ("max_run_time", "x'ff'", SQLITE, "malformed"),
    ("max_run_time", "'infinity'", POSTGRESQL, "malformed"),
    ("max_run_time", "'-infinity'", POSTGRESQL, "malformed"),
    ("max_run_time", "'nan'", POSTGRESQL, "malformed"),
    ("attempts", f"{MOST}", EVERYWHERE, "malformed"),
    ("attempts", f"{MOST - 1}", EVERYWHERE, "malformed"),
    ("attempts", f"{MOST - 2}", EVERYWHERE, ""),
    ("attempts", "4294967295", SQLITE + MYSQL, "malformed"),
    ("attempts", "9223372036854775807", SQLITE, "malformed"),
    ("attempts", "1e300", SQLITE, "malformed"),
    ("attempts", "'abc'", SQLITE, "malformed"),
    ("token", "9223372036854775807", EVERYWHERE, ""),
    ("token", "18446744073709551615", MYSQL, ""),
    ("token", "1e300", SQLITE, ""),
    ("token", "'abc'", SQLITE, ""),
    ("crashes", f"{MOST}", EVERYWHERE, "malformed"),
    ("crashes", "4294967295", SQLITE + MYSQL, "malformed"),
    ("crashes", "'abc'", SQLITE, "malformed"),
    ("max_attempts", f"{MOST}", EVERYWHERE, ""),
    ("max_attempts", "0", EVERYWHERE, ""),  # As if there were none.
    ("max_attempts", "4294967295", SQLITE + MYSQL, "malformed"),
    ("max_attempts", "'abc'", SQLITE, "malformed"),
    ("priority", f"{MOST}", EVERYWHERE, ""),
    ("priority", f"{-MOST - 1}", EVERYWHERE, ""),
    ("priority", "9223372036854775807", SQLITE, "malformed"),
    ("priority", "-9223372036854775807", SQLITE, "malformed"),
    ("priority", "1.5", SQLITE, "malformed"),
    ("priority", "-1.5", SQLITE, "malformed"),
    ("priority", "9e999", SQLITE, "malformed"),
    ("priority", "'abc'", SQLITE, "malformed"),
    ("priority", "x'ff'", SQLITE, "malformed"),
    ("run_at", "'0001-01-01 00:00:00'", SQLITE + POSTGRESQL, ""),
    ("run_at", "'1000-01-01 00:00:00'", MYSQL, ""),
    ("run_at", "'9999-12-31 00:00:00'", EVERYWHERE, ""),
    ("run_at", "''", SQLITE, ""),
    ("run_at", "'garbage'", SQLITE, ""),
    ("run_at", "'2026-13-45 99:00:00'", SQLITE, ""),
    ("run_at", "x'ff'", SQLITE, ""),
    ("run_at", "1e300", SQLITE, ""),
    ("run_at", "'-infinity'", POSTGRESQL, ""),
    ("run_at", "'infinity'", POSTGRESQL, ""),
    ("run_at", "'4713-01-01 00:00:00 BC'", POSTGRESQL, ""),
    ("run_at", "'0000-00-00 00:00:00'", MYSQL, ""),
]


def rows(*columns):
    """Parametrize a test with the edits of these columns, or of all columns.

    Each edit runs only on the databases that can store its value.
    """
    return pytest.mark.parametrize(
        ("column", "value", "expected"),
        [
            pytest.param(
                column, value, expected, marks=pytest.mark.vendor(*vendors), id=f"{column}={value}"
            )
            for column, value, vendors, expected in ROWS
            if not columns or column in columns
        ],
    )


def edit(task, column, value):
    with connection.cursor() as cursor:
        if connection.vendor == "mysql" and "0000" in value:
            cursor.execute("SET SESSION sql_mode = 'STRICT_TRANS_TABLES'")
        cursor.execute(f"UPDATE bgtask_task SET {column} = {value} WHERE id = %s", [task.pk])


def run_all():
    """Claim, execute and finish as a worker does, without reading the rows as run_due() does."""
    worker = WorkerFactory()
    while heads := take_snapshot().heads:
        for head in heads:
            tasks = claim_queue(worker, head.queue, 10, None, head.priority)
            assert tasks
            finish_attempts([execute(task) for task in tasks])
    finish_attempts([execute(task) for task in claim_suspect(worker)])


def ended(task):
    return Task.objects.filter(pk=task.pk).values_list("status", "error_class").get()


def expect(expected):
    return (Status.FAILED, expected) if expected else (Status.SUCCESSFUL, "")


@rows()
def test_ready_row_is_claimed_with_others_and_fails_alone(column, value, expected):
    before, edited, after = TaskFactory.create_batch(3)
    elsewhere = TaskFactory(queue="other")
    edit(edited, column, value)

    assert len(claim_queue(WorkerFactory(), "default", 10)) >= 2
    Task.objects.running().update(
        status=Status.READY, locked_by=None, locked_at=None, deadline_at=None
    )
    edit(edited, column, value)
    QueueStats.objects.sample()
    run_all()

    for neighbour in (before, after, elsewhere):
        assert ended(neighbour) == (Status.SUCCESSFUL, "")
    assert ended(edited) == expect(expected)


@pytest.mark.django_db(transaction=True)
@rows()
def test_draining_worker_runs_all_other_tasks(column, value, expected, caplog):
    """With hints, floors, patience and statistics, which only a worker has."""
    tasks = TaskFactory.create_batch(5)
    others = [TaskFactory(queue="other", priority=number) for number in range(-2, 3)]
    edit(tasks[2], column, value)

    assert Runner(drain=True, threads=2).run()

    for neighbour in [*tasks[:2], *tasks[3:], *others]:
        assert ended(neighbour) == (Status.SUCCESSFUL, "")
    assert ended(tasks[2]) == expect(expected)
    assert "does not answer" not in caplog.text


@rows("run_at")
def test_scheduled_row_without_a_date_does_not_hide_what_is_due(column, value, expected):
    edited = TaskFactory(status=Status.SCHEDULED, run_at=DatabaseNow(-3600))
    neighbour = TaskFactory(status=Status.SCHEDULED, run_at=DatabaseNow(-60))
    edit(edited, column, value)

    snapshot = take_snapshot()
    assert snapshot.next_due is not None
    assert snapshot.next_due <= 0
    promote_due()

    assert Task.objects.filter(pk=neighbour.pk).values_list("status").get() == (Status.READY,)


@rows("run_at")
def test_lone_scheduled_row_without_a_date_does_not_keep_workers_busy(column, value, expected):
    edit(TaskFactory(status=Status.SCHEDULED), column, value)

    promote_due()

    due = take_snapshot().next_due
    assert due is None or due > 0


@pytest.mark.parametrize("why", ["dead worker", "overdue", "by force"])
@rows("max_run_time", "attempts", "token", "crashes", "max_attempts", "run_at")
def test_running_row_is_rescued_with_others(column, value, expected, why):
    dead = WorkerFactory(dead=why == "dead worker")
    deadline = {"deadline_at": DatabaseNow(-1)} if why == "overdue" else {}
    tasks = TaskFactory.create_batch(3, status=Status.RUNNING, locked_by=dead, **deadline)
    edit(tasks[1], column, value)

    moved = Task.objects.cancel(force=True) if why == "by force" else rescue_tasks()

    assert moved >= 3
    assert not Task.objects.running().exists()
    assert Attempt.objects.count() == 3


@pytest.mark.parametrize("column", ["run_at", "locked_at"])
@pytest.mark.vendor("postgresql")
def test_running_row_that_python_cannot_read_does_not_block_a_rescue(column, caplog):
    dead = WorkerFactory(dead=True)
    tasks = TaskFactory.create_batch(3, status=Status.RUNNING, locked_by=dead)
    edit(tasks[1], column, "'infinity'")

    assert rescue_tasks() >= 2

    left = set(Task.objects.running().values_list("pk", flat=True))
    assert left <= {tasks[1].pk}
    assert ("cannot be rescued" in caplog.text) == bool(left)


@rows("max_run_time", "attempts", "token", "crashes", "max_attempts")
def test_row_can_be_released_requeued_and_changed_with_others(column, value, expected):
    tasks = TaskFactory.create_batch(3, status=Status.FAILED)
    edit(tasks[1], column, value)

    assert Task.objects.requeue(spread=60) == 3
    assert Task.objects.run_now() == 3
    assert Task.objects.hold() == 3
    assert Task.objects.unhold() == 3
    assert Task.objects.reset_attempts() == 3
    edit(tasks[1], column, value)
    claimed = claim_queue(WorkerFactory(), "default", 10)
    claimed += claim_suspect(WorkerFactory())
    assert release_claims(claimed) == 3


@pytest.fixture
def first_bad_text(monkeypatch):
    """Forget that this process has met a text that is not UTF-8."""
    monkeypatch.setattr(operations_for(connection), "_decodes_itself", False)


NO_TEXTS = [
    pytest.param("CAST(x'ff' AS text)", id="a text that is not UTF-8"),
    pytest.param("x'ff'", id="bytes"),
]


@pytest.mark.vendor("sqlite")
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("first_bad_text")
@pytest.mark.parametrize("value", NO_TEXTS)
@pytest.mark.parametrize(
    ("column", "expected"),
    [("task_name", "FAILED"), ("task_params", "FAILED"), ("queue", "READY")],
)
def test_row_without_valid_text_does_not_block_others(column, value, expected):
    tasks = TaskFactory.create_batch(5)
    edit(tasks[2], column, value)

    assert Runner(drain=True, threads=2).run()

    for neighbour in [*tasks[:2], *tasks[3:]]:
        assert ended(neighbour) == (Status.SUCCESSFUL, "")
    assert ended(tasks[2]) == (expected, "malformed" if expected == "FAILED" else "")


@pytest.mark.vendor("sqlite")
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("first_bad_text")
@pytest.mark.parametrize("value", NO_TEXTS)
def test_running_row_without_valid_text_does_not_block_a_rescue(value):
    dead = WorkerFactory(dead=True)
    tasks = TaskFactory.create_batch(3, status=Status.RUNNING, locked_by=dead)
    edit(tasks[1], "task_name", value)

    rescue_tasks()

    assert ended(tasks[0]) == ended(tasks[2]) == (Status.READY, "")


@pytest.mark.vendor("sqlite")
@pytest.mark.django_db(transaction=True)
def test_rescue_of_a_row_without_a_name_does_not_stop_the_heartbeat():
    """Its name is counted among those of others, and is no text."""
    task = TaskFactory(status=Status.RUNNING, locked_by=WorkerFactory(dead=True), crashes=5)
    edit(task, "task_name", "x'ff'")
    neighbour = TaskFactory(queue=task.queue)
    rescued = []
    rescue_tasks(tell=rescued.extend)
    statistics = Statistics()
    statistics.set_clock(task.enqueued_at)

    statistics.add(
        [(Outcome(one, Status.FAILED), "FAILED") for one in (rescued[0].task, neighbour)]
    )

    statistics.write("default", statistics.take())

    assert sum(TaskStats.objects.values_list("failed", flat=True)) == 2


def test_malformed_failure_names_the_number_and_the_remedy():
    edit(TaskFactory(), "max_run_time", "-5")

    run_due(raise_errors=False)

    error = Task.objects.get().last_error
    assert "max_run_time=-5" in error
    assert "Correct the row" in error
