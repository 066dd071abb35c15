"""Test that the number of statements doesn't depend on the number of tasks."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from bgtask.lifecycle.claim import claim_queue, release_claims, take_snapshot
from bgtask.lifecycle.finish import finish_attempts
from bgtask.worker.executor import execute
from tests.bgtask.lifecycle.outcomes import failure, success
from tests.factories import WorkerFactory
from tests.tasks import noop

pytestmark = pytest.mark.django_db

TRANSACTION = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE", "ROLLBACK")


class Asked(CaptureQueriesContext):
    """The statements of a block, but for those that only begin or end a transaction."""

    def __init__(self):
        super().__init__(connection)

    @property
    def statements(self):
        return [sql for query in self if not (sql := query["sql"].strip()).startswith(TRANSACTION)]

    def __len__(self):
        return len(self.statements)


@pytest.fixture
def one_or_two(database_vendor):
    """MariaDB has no UPDATE … RETURNING: it locks first, and then updates."""
    return 2 if database_vendor == "mysql" else 1


@pytest.fixture
def worker():
    return WorkerFactory()


class TestEnqueue:
    @pytest.mark.parametrize("schedule", [None, 60, -1])
    def test_enqueue_takes_one_round_trip(self, schedule):
        with Asked() as asked:
            noop.using(schedule=schedule)(1)

        assert len(asked) == 1, asked.statements

    def test_enqueue_many_takes_one_statement_per_thousand_tasks(self):
        with Asked() as asked:
            noop.enqueue_many((number,) for number in range(2_001))

        inserts = [sql for sql in asked.statements if "INSERT" in sql]
        assert len(inserts) == 3
        assert len(asked) <= len(inserts) + 1, "one more to wake who sleeps"


class TestClaim:
    @pytest.mark.parametrize("number", [1, 400])
    def test_number_of_statements_does_not_depend_on_the_number_of_tasks(
        self, number, worker, one_or_two
    ):
        noop.enqueue_many((n,) for n in range(number))

        with Asked() as asked:
            tasks = claim_queue(worker, "default", number)

        assert len(tasks) == number
        assert len(asked) == one_or_two, asked.statements

    def test_claim_reads_all_columns_that_a_run_needs(self, worker):
        noop.enqueue_many((n,) for n in range(3))
        tasks = claim_queue(worker, "default", 3)

        with Asked() as asked:
            outcomes = [execute(task) for task in tasks]

        assert [outcome.status for outcome in outcomes] == ["SUCCESSFUL"] * 3
        assert len(asked) == 0, asked.statements

    @pytest.mark.parametrize("named", [True, False])
    def test_one_statement_finds_the_next_queue_among_any_number(self, named, database_vendor):
        queues = [f"queue-{number}" for number in range(20)]
        for queue in queues:
            noop.using(queue=queue)(1)

        with Asked() as asked:
            snapshot = take_snapshot(queues if named else None)

        assert len(snapshot.heads) == 20
        # MariaDB steps from queue to queue: a recursive statement would take it far longer.
        assert len(asked) <= (len(queues) + 2 if database_vendor == "mysql" else 1)


class TestFinish:
    @pytest.mark.parametrize("number", [1, 400])
    def test_number_of_statements_does_not_depend_on_the_number_of_tasks(
        self, number, worker, one_or_two
    ):
        noop.enqueue_many((n,) for n in range(number))
        outcomes = [success(task) for task in claim_queue(worker, "default", number)]

        with Asked() as asked:
            accepted = finish_attempts(outcomes)

        assert len(accepted) == number
        assert len(asked) == one_or_two, asked.statements

    def test_history_of_all_failures_takes_one_more_statement(self, worker, one_or_two):
        noop.enqueue_many((n,) for n in range(50))
        outcomes = [failure(task) for task in claim_queue(worker, "default", 50)]

        with Asked() as asked:
            accepted = finish_attempts(outcomes)

        assert len(accepted) == 50
        assert len(asked) == one_or_two + 1, asked.statements

    def test_unstarted_tasks_are_released_by_one_statement(self, worker):
        noop.enqueue_many((n,) for n in range(50))
        tasks = claim_queue(worker, "default", 50)

        with Asked() as asked:
            released = release_claims(tasks)

        assert released == 50
        updates = [sql for sql in asked.statements if sql.startswith("UPDATE")]
        assert len(updates) == 1, asked.statements
        assert len(asked) <= len(updates) + 1, "one more to wake who could start it at once"


def test_a_heartbeat_takes_one_statement(worker):
    with Asked() as asked:
        assert worker.beat()

    assert len(asked) == 1, asked.statements
