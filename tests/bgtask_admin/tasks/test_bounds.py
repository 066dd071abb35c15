"""A count reads a bounded number of rows, and says so where that is not all."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from bgtask.db import DatabaseNow
from bgtask.models import Task
from bgtask.status import Status
from bgtask_admin.actions import run
from bgtask_admin.actions.preview import Preview
from bgtask_admin.actions.registry import ACTIONS
from bgtask_admin.models import Operation
from bgtask_admin.tasks import bounds
from bgtask_admin.tasks.selection import Selection
from tests.bgtask_admin.urls import CONFIRM, preview_of, words
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def three(monkeypatch):
    monkeypatch.setattr(bounds, "MOST_SEARCHED", 3)
    monkeypatch.setattr(bounds, "MOST_TEXTS_SEARCHED", 2)


def preview(verb="requeue", **query):
    return Preview.take(ACTIONS[verb], Selection.parse_narrow(query))


def test_the_confirmation_counts_the_newest_and_says_at_least(admin_client):
    """A search without a bound: few tasks match, and no index finds them."""
    TaskFactory.create_batch(2, status=Status.FAILED, queue="mail")
    TaskFactory.create_batch(2, status=Status.FAILED)
    TaskFactory(status=Status.FAILED, queue="mail")

    page = admin_client.get(f"{CONFIRM}?verb=requeue&status=FAILED&queue=mail")

    assert "At least 1 task matches. Only the newest 3 tasks were searched." in words(page)
    assert "Requeue all matching tasks" in words(page)
    admin_client.post(CONFIRM, {"preview": preview_of(page)})
    operation = Operation.objects.get()
    assert (operation.state, operation.changed, operation.matched) == ("done", 3, 3)
    assert set(Task.objects.ready().values_list("queue", flat=True)) == {"mail"}


def test_the_number_is_exact_where_an_index_leaves_few_rows():
    TaskFactory.create_batch(3, status=Status.FAILED, queue="mail")
    TaskFactory.create_batch(5, status=Status.SUCCESSFUL)

    seen = preview(status="FAILED", queue="mail")

    assert (seen.matched, seen.matched_at_least) == (3, False)
    assert seen.breakdown().looked_at == 3


def test_the_number_of_a_status_alone_is_at_least_the_limit():
    TaskFactory.create_batch(5, status=Status.FAILED)
    TaskFactory.create_batch(5, status=Status.SUCCESSFUL)

    seen = preview(status="FAILED")

    assert (seen.matched, seen.matched_at_least) == (3, True)


def test_without_a_status_all_statuses_of_the_action_are_counted_together():
    for status in (Status.FAILED, Status.CANCELLED):
        TaskFactory.create_batch(2, status=status, queue="mail")

    assert preview(queue="mail").matched_at_least
    Task.objects.cancelled().first().delete()
    seen = preview(queue="mail")
    assert (seen.matched, seen.matched_at_least) == (3, False)


def test_a_task_type_with_few_tasks_is_counted_exactly():
    TaskFactory.create_batch(2, task_name="shop.send")
    TaskFactory.create_batch(5)

    seen = preview("hold_type", task="shop.send")

    assert (seen.matched, seen.matched_at_least) == (2, False)


def test_tasks_that_were_chosen_one_by_one_are_counted_exactly():
    tasks = TaskFactory.create_batch(5, status=Status.FAILED)

    seen = preview(ids=",".join(str(task.pk) for task in tasks))

    assert (seen.matched, seen.matched_at_least) == (5, False)


def test_fewer_error_texts_than_rows_are_searched():
    TaskFactory.create_batch(3, status=Status.FAILED, last_error="refused", queue="mail")

    assert not preview(status="FAILED", queue="mail").matched_at_least
    seen = preview(status="FAILED", error="refused", since="1h")
    assert (seen.matched, seen.matched_at_least) == (2, True)


def test_a_confirmation_with_a_wrong_option_shows_the_same_breakdown(admin_client):
    TaskFactory.create_batch(5, queue="mail")
    page = admin_client.get(f"{CONFIRM}?verb=queue&status=READY&queue=mail")

    again = admin_client.post(CONFIRM, {"preview": preview_of(page), "queue": "not a name"})

    assert again.status_code == 400
    for one in (page, again):
        assert one.context["breakdown"].looked_at == 3
        assert one.context["preview"].matched_at_least


def test_no_statement_reads_all_rows_of_a_large_table(admin_client):
    TaskFactory.create_batch(5, status=Status.FAILED, queue="mail")

    for query in ("status=FAILED&queue=mail", "queue=mail", "status=FAILED"):
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert admin_client.get(f"{CONFIRM}?verb=requeue&{query}").status_code == 200
        for one in captured.captured_queries:
            sql = one["sql"].translate(dict.fromkeys(map(ord, '"`')))
            if "FROM bgtask_task " in sql and "MAX(" not in sql:
                assert "LIMIT" in sql or "id > " in sql, sql


def test_an_operation_that_was_not_counted_exactly_ends_with_the_exact_number(admin_user):
    TaskFactory.create_batch(5, status=Status.FAILED)
    operation = run.start(preview(status="FAILED"), {}, user=admin_user)
    assert operation.matched_at_least

    run.step(operation)

    assert (operation.matched, operation.matched_at_least, operation.changed) == (5, False, 5)


@pytest.mark.parametrize(("status", "is_exact"), [("FAILED", True), ("READY", False)])
def test_a_period_bounds_the_rows_only_where_an_index_has_the_time(status, is_exact):
    TaskFactory.create_batch(5, status=status, run_at=DatabaseNow(-7200))
    Task.objects.failed().update(finished_at=DatabaseNow(-7200))
    TaskFactory(status=status, queue="mail")

    seen = preview("requeue" if is_exact else "hold", status=status, queue="mail", since="1h")

    assert (seen.matched, seen.matched_at_least) == (1, not is_exact)
