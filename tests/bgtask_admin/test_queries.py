"""
However many tasks there are, a page takes no more than twelve queries.

If a queue is behind, one more finds out since when.
"""

from __future__ import annotations

import pytest

from bgtask.db import DatabaseNow
from bgtask.models import Attempt, Task
from bgtask.status import Status
from tests.bgtask_admin.urls import CONFIRM, LANDING, OPERATIONS, TASKS
from tests.factories import TaskFactory, WorkerFactory

UNQUOTED = dict.fromkeys(map(ord, '"`'))

pytestmark = pytest.mark.django_db


@pytest.fixture
def many_rows(db):
    worker = WorkerFactory()
    for number in range(4):
        for status in Status:
            TaskFactory(status=status, queue=f"queue-{number}", task_name=f"shop.task_{number}",
                        locked_by=worker if status == Status.RUNNING else None)  # fmt: skip
    Task.objects.failed().update(error_class="Refused", error_fingerprint="abc")
    for task in Task.objects.failed():
        Attempt.objects.create(
            task=task, token=1, number=1, finished_at=task.finished_at, outcome="failed",
            error_class="Refused", error_fingerprint="abc",
        )  # fmt: skip


@pytest.mark.parametrize(
    "url",
    [
        TASKS,
        *(f"{TASKS}?status={status}" for status in Status),
        f"{TASKS}?queue=queue-1",
        f"{TASKS}?q=refused",
        f"{TASKS}?argument=a:1&status=READY",
        f"{LANDING}error/abc/",
        f"{CONFIRM}?verb=requeue&status=FAILED",
        f"{CONFIRM}?verb=requeue&status=FAILED&argument=a:1",
        f"{TASKS}export.csv?argument=a:1",
        f"{LANDING}hold/?name=shop.task_1",
        OPERATIONS,
        f"{TASKS}export.csv",
    ],
)
def test_every_page_takes_at_most_twelve_queries(
    admin_client, log_in, many_rows, django_assert_max_num_queries, url
):
    assert_takes(12, url, admin_client, log_in, django_assert_max_num_queries)


@pytest.mark.parametrize(("run_at", "number"), [(0, 12), (-400, 13)])
@pytest.mark.parametrize("url", [LANDING, f"{LANDING}?span=7d"])
def test_a_queue_that_is_behind_costs_one_more(
    admin_client, log_in, many_rows, django_assert_max_num_queries, url, run_at, number
):
    Task.objects.ready().update(run_at=DatabaseNow(run_at))

    assert_takes(number, url, admin_client, log_in, django_assert_max_num_queries)


def assert_takes(number, url, admin_client, log_in, django_assert_max_num_queries):
    admin_client.get("/admin/")  # Content types are cached once.
    staff = log_in(
        "view_task", "view_task_arguments", "view_traceback", "requeue_task", "hold_task",
        "pause_queue",
    )  # fmt: skip

    for client in (admin_client, staff):  # Of staff the rights are asked as well.
        with django_assert_max_num_queries(number):
            response = client.get(url)
            b"".join(response)

    assert response.status_code == 200


def test_task_page_takes_at_most_twelve_queries(
    admin_client, many_rows, django_assert_max_num_queries
):
    for task in Task.objects.all():
        with django_assert_max_num_queries(12):
            admin_client.get(f"{TASKS}{task.pk}/change/")


@pytest.mark.parametrize("query", ["", "?status=SUCCESSFUL", "?queue=queue-1"])
def test_no_list_uses_offset_or_an_unlimited_count(
    admin_client, many_rows, django_assert_max_num_queries, query
):
    with django_assert_max_num_queries(12) as captured:
        admin_client.get(TASKS + query)

    statements = [one["sql"] for one in captured.captured_queries if "bgtask_task" in one["sql"]]
    assert statements
    for statement in statements:
        assert "OFFSET" not in statement
        assert "LIMIT" in statement or "id IN (" in statement.translate(UNQUOTED)
