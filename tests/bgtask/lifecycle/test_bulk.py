"""Test that short statements, which every database accepts, handle very many tasks."""

from __future__ import annotations

import sqlite3

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from bgtask.db import DatabaseNow, operations_for
from bgtask.lifecycle import promote
from bgtask.lifecycle.promote import unhold_expired, unhold_known
from bgtask.models import Attempt, Task, TaskStats, deletion
from bgtask.status import HeldFor, Status
from tests.bgtask.lifecycle.test_statistics import minute
from tests.factories import AttemptFactory, HoldFactory, TaskFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def few_parameters():
    """Allow as many parameters as a page has ids. SQLite's own limit needs a big table."""
    if connection.vendor == "sqlite":
        raw = connection.connection
        before = raw.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, deletion.PAGE_ROWS)
        yield
        raw.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, before)
    else:
        yield


class TestUnhold:
    @pytest.fixture(autouse=True)
    def page_of_two(self, monkeypatch):
        monkeypatch.setattr(promote, "PAGE_ROWS", 2)

    def test_unhold_takes_one_statement_without_held_tasks(self, django_assert_num_queries):
        TaskFactory()
        TaskFactory(status=Status.HELD, held_for=HeldFor.OPERATOR)

        with django_assert_num_queries(1):
            assert unhold_known({"tests.tasks.noop"}.__contains__) == 0

    @pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
    def test_unhold_releases_any_number_of_tasks(self, number):
        TaskFactory.create_batch(number, status=Status.HELD, held_for=HeldFor.UNKNOWN)
        TaskFactory.create_batch(
            number, task_name="another", status=Status.HELD, held_for=HeldFor.UNKNOWN
        )
        TaskFactory(task_name="a third", status=Status.HELD, held_for=HeldFor.UNKNOWN)

        assert unhold_known({"tests.tasks.noop", "another"}.__contains__) == 2 * number
        assert Task.objects.held().get().task_name == "a third"

    def test_unhold_leaves_tasks_that_are_still_on_hold(self):
        HoldFactory(task_name="another")
        TaskFactory.create_batch(3, status=Status.HELD, held_for=HeldFor.TYPE)
        TaskFactory(task_name="another", status=Status.HELD, held_for=HeldFor.TYPE)

        assert unhold_expired() == 3
        assert Task.objects.held().get().task_name == "another"

    def test_unhold_ignores_a_hold_that_is_over_and_not_deleted(self):
        HoldFactory(expires_at=DatabaseNow(-1))
        HoldFactory(task_name="another", expires_at=DatabaseNow(3600))
        TaskFactory(status=Status.HELD, held_for=HeldFor.TYPE)
        TaskFactory(task_name="another", status=Status.HELD, held_for=HeldFor.TYPE)

        assert unhold_expired() == 1
        assert Task.objects.held().get().task_name == "another"

    @pytest.mark.django_db(transaction=True)
    def test_tasks_released_before_an_error_stay_released(self):
        TaskFactory.create_batch(5, status=Status.HELD, held_for=HeldFor.UNKNOWN)

        with (
            connection.execute_wrapper(failing("UPDATE", after=2)),
            pytest.raises(OperationalError),
        ):
            unhold_known({"tests.tasks.noop"}.__contains__)

        assert Task.objects.ready().count() == 4
        assert unhold_known({"tests.tasks.noop"}.__contains__) == 1


class TestDelete:
    @pytest.mark.usefixtures("few_parameters")
    def test_delete_handles_more_tasks_than_a_statement_takes_parameters(self):
        Task.objects.enqueue_many("tests.tasks.noop", (([n], {}) for n in range(100)))
        Task.objects.bulk_create(
            [Task(task_name="tests.tasks.noop") for _ in range(deletion.PAGE_ROWS)], batch_size=20
        )
        Task.objects.cancel()
        for task in (Task.objects.earliest("pk"), Task.objects.latest("pk")):
            AttemptFactory(task=task)

        assert Task.objects.cancelled().discard() == deletion.PAGE_ROWS + 100
        assert not Task.objects.exists()
        assert not Attempt.objects.exists()

    @pytest.mark.django_db(transaction=True)
    def test_delete_is_atomic(self, monkeypatch):
        monkeypatch.setattr(deletion, "PAGE_ROWS", 2)
        TaskFactory.create_batch(5, status=Status.FAILED)

        with (
            connection.execute_wrapper(failing("DELETE FROM", after=3)),
            pytest.raises(OperationalError),
        ):
            Task.objects.discard()

        assert Task.objects.count() == 5


@pytest.mark.usefixtures("few_parameters")
def test_statistics_of_more_kinds_than_a_statement_takes_parameters():
    stored = connection.ops.adapt_datetimefield_value(minute())
    rows = [[stored, "mail", f"task-{n:03}", 1, 0, 0, 5, 5, 5, 5] for n in range(250)]

    with CaptureQueriesContext(connection) as asked:
        for _ in range(2):
            operations_for(connection).add_stats(connection, rows)

    assert len(asked) == 6
    assert set(TaskStats.objects.values_list("succeeded", "latency_sum", "latency_max")) == {
        (2, 10, 5)
    }
    assert TaskStats.objects.count() == 250


def failing(beginning, *, after):
    """Make the database fail after this number of statements that begin so."""
    seen = []

    def execute(run, sql, params, many, context):
        if sql.lstrip("(").lstrip().startswith(beginning):
            seen.append(sql)
            if len(seen) > after:
                raise OperationalError("the server closed the connection")
        return run(sql, params, many, context)

    return execute
