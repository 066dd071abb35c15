"""Old finished tasks go, each outcome at its age, and nothing else does."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from bgtask.db import DatabaseNow
from bgtask.lifecycle.retention import Pruning
from bgtask.models import Attempt, QueueStats, Task, TaskStats, Worker
from bgtask.status import LIVE, AttemptOutcome, Status
from bgtask.worker import maintenance
from tests.factories import TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db

DAY = 86_400


def finished(status, *, days):
    return TaskFactory(status=status, finished_at=DatabaseNow(-days * DAY))


def statuses():
    return sorted(Task.objects.values_list("status", flat=True))


def test_each_outcome_is_kept_for_its_retention():
    finished("SUCCESSFUL", days=8)
    finished("CANCELLED", days=31)
    kept = [
        finished("SUCCESSFUL", days=6),
        finished("CANCELLED", days=29),
        finished("FAILED", days=4_000),
    ]

    pruned = maintenance.prune()

    assert (pruned["successful"], pruned["cancelled"], pruned["failed"]) == (1, 1, 0)
    assert set(Task.objects.all()) == set(kept)


def test_an_age_is_exact_to_the_second():
    TaskFactory(status="SUCCESSFUL", finished_at=DatabaseNow(-7 * DAY - 10))
    kept = TaskFactory(status="SUCCESSFUL", finished_at=DatabaseNow(-7 * DAY + 30))

    maintenance.prune()

    assert Task.objects.get() == kept


def test_retention_is_configurable(settings):
    settings.BGTASK = {
        "RETENTION": {"successful": None, "failed": timedelta(days=2), "cancelled": 3 * DAY}
    }
    finished("SUCCESSFUL", days=4_000)
    finished("FAILED", days=3)
    finished("FAILED", days=1)
    finished("CANCELLED", days=4)

    maintenance.prune()

    assert statuses() == ["FAILED", "SUCCESSFUL"]


def test_unfinished_tasks_of_any_age_are_kept():
    for status in LIVE:
        TaskFactory(status=status, enqueued_at=DatabaseNow(-4_000 * DAY))

    maintenance.prune()

    assert len(statuses()) == len(LIVE)


def test_history_of_a_task_is_deleted_with_it():
    old, young = finished("SUCCESSFUL", days=8), finished("SUCCESSFUL", days=1)
    for task in (old, young):
        Attempt.objects.create(
            task=task, token=1, number=1, finished_at=DatabaseNow(), outcome=AttemptOutcome.FAILED
        )

    maintenance.prune()

    assert [attempt.task for attempt in Attempt.objects.all()] == [young]


@pytest.mark.parametrize(
    ("number", "batches"), [(0, []), (2, [2]), (3, [3]), (7, [3, 3, 1])], ids=str
)
def test_pruning_works_in_batches(number, batches):
    for _ in range(number):
        finished("SUCCESSFUL", days=8)

    assert list(Pruning(Status.SUCCESSFUL, 7 * DAY, batch_size=3)) == batches
    assert not Task.objects.exists()


def test_oldest_tasks_are_pruned_first():
    older, _oldest = finished("SUCCESSFUL", days=9), finished("SUCCESSFUL", days=10)

    next(Pruning(Status.SUCCESSFUL, 7 * DAY, batch_size=1))

    assert list(Task.objects.all()) == [older]


def test_pruning_stops_between_batches_for_other_jobs():
    finished("SUCCESSFUL", days=8)
    finished("CANCELLED", days=31)

    answers = iter([True])

    maintenance.prune(may_go_on=lambda: next(answers, False))

    assert statuses() == ["CANCELLED"]


def test_workers_and_statistics_are_pruned_despite_other_jobs():
    finished("SUCCESSFUL", days=8)
    WorkerFactory(dead=True, heartbeat_at=DatabaseNow(-2 * DAY))
    TaskStats.objects.create(minute=DatabaseNow(-31 * DAY), queue="a", task_name="b")

    maintenance.prune(may_go_on=lambda: False)

    assert statuses() == ["SUCCESSFUL"]
    assert not Worker.objects.exists()
    assert not TaskStats.objects.exists()


@pytest.mark.parametrize("number", [3, 4, 5])
def test_statistics_are_pruned_in_batches_with_the_oldest_first(number):
    for days in range(29, 29 + number):
        for name in ("one", "another"):
            TaskStats.objects.create(minute=DatabaseNow(-days * DAY), queue="a", task_name=name)

    with CaptureQueriesContext(connection) as asked:
        assert TaskStats.objects.prune(30.5 * DAY, batch_size=2) == 2 * (number - 2)

    deletes = [query for query in asked if query["sql"].startswith("DELETE")]
    assert len(deletes) == number - 2
    assert TaskStats.objects.count() == 4


def test_task_requeued_meanwhile_is_kept():
    finished("SUCCESSFUL", days=9)
    second = finished("SUCCESSFUL", days=8)
    pruning = Pruning(Status.SUCCESSFUL, 7 * DAY, batch_size=1)
    next(pruning)

    second.requeue()

    assert list(pruning) == []
    assert list(Task.objects.ready()) == [second]


def test_dead_workers_without_tasks_are_pruned_after_a_day():
    WorkerFactory(dead=True, heartbeat_at=DatabaseNow(-2 * DAY))
    recent = WorkerFactory(dead=True, heartbeat_at=DatabaseNow(-DAY / 2))
    alive = WorkerFactory(heartbeat_at=DatabaseNow(-2 * DAY))
    holding = TaskFactory(
        status="RUNNING", locked_by=WorkerFactory(dead=True, heartbeat_at=DatabaseNow(-2 * DAY))
    ).locked_by

    pruned = maintenance.prune()

    assert pruned["workers"] == 1
    assert set(Worker.objects.all()) == {recent, alive, holding}


def test_statistics_are_pruned_after_a_month():
    for days in (29, 31):
        TaskStats.objects.create(minute=DatabaseNow(-days * DAY), queue="a", task_name="b")
        QueueStats.objects.create(
            minute=DatabaseNow(-days * DAY), queue="a", ready=1, oldest_ready_age=1
        )

    pruned = maintenance.prune()

    assert pruned["statistics"] == 2
    assert (TaskStats.objects.count(), QueueStats.objects.count()) == (1, 1)


def test_prune_command_reports_what_it_deleted():
    finished("SUCCESSFUL", days=8)
    finished("SUCCESSFUL", days=8)
    output = StringIO()

    call_command("prune_tasks", stdout=output)

    assert output.getvalue().startswith("Deleted 2 successful, 0 cancelled, 0 failed")
    assert not Task.objects.exists()


def test_prune_command_reports_a_refusal_in_one_line():
    """Kind of fault: a refusal by the database is shown as a traceback."""

    def refuse(*args):
        raise OperationalError("no\nroute")

    with (
        connection.execute_wrapper(refuse),
        pytest.raises(CommandError, match=r"\AThe database refused: no route\Z"),
    ):
        call_command("prune_tasks")
