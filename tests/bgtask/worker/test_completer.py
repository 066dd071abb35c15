"""
Test that the completer writes outcomes, and logs those that it can't write.

The module is long because it tests each way in which a database refuses outcomes.
"""

from __future__ import annotations

import contextlib
import logging
from datetime import timedelta

import pytest
from django.db import DataError, OperationalError, connection
from django.utils import timezone

from bgtask.lifecycle.claim import claim_queue
from bgtask.models import Task, Worker
from bgtask.worker import completer as module
from bgtask.worker.completer import Completer
from tests.bgtask.lifecycle.outcomes import FAILURE, failure, retry, success
from tests.helpers import eventually
from tests.tasks import noop

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def claimed():
    noop.enqueue_many([()] * 3)
    return claim_queue(Worker.register(), "default", 3)


@pytest.fixture
def reported():
    return []


@pytest.fixture
def completer(reported):
    completer = Completer(
        lambda accepted, fenced: reported.append((accepted, fenced)), is_idle=lambda: False
    )
    completer.start()
    yield completer
    completer.stop(10)


def test_outcomes_that_come_in_at_the_same_moment_are_written(completer, claimed):
    first, second, _ = map(success, claimed)

    completer._pending.append(first)  # Another thread, that has not come to look yet.
    completer.put(second)

    eventually(lambda: Task.objects.succeeded().count() == 2)


def test_outcomes_too_large_for_the_memory_are_written_one_by_one(monkeypatch, completer, claimed):
    flush = module.flush

    def flush_one(outcomes):
        if len(outcomes) > 1:
            raise MemoryError
        return flush(outcomes)

    monkeypatch.setattr(module, "flush", flush_one)
    for outcome in map(success, claimed):
        completer.put(outcome)

    eventually(lambda: Task.objects.succeeded().count() == 3, timeout=30)


@pytest.fixture
def flushes(monkeypatch):
    """Return a list that gets the number of outcomes of each flush. The flushes are real."""
    sizes = []
    really = module.flush

    def flush(outcomes):
        sizes.append(len(outcomes))
        return really(outcomes)

    monkeypatch.setattr(module, "flush", flush)
    return sizes


@contextlib.contextmanager
def the_table_away():
    """Rename the table of tasks: the simplest real outage that works on each database."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE bgtask_task RENAME TO bgtask_task_away")
        try:
            yield
        finally:
            cursor.execute("ALTER TABLE bgtask_task_away RENAME TO bgtask_task")


class TestOutage:
    """Test that an outage loses no return value, no traceback and no outcome."""

    @pytest.mark.slow
    @pytest.mark.parametrize("count", [1, pytest.param(3, marks=pytest.mark.sample)])
    def test_outage_of_many_tries_loses_no_return_value_and_no_traceback(
        self, completer, claimed, flushes, count
    ):
        outcomes = [
            success(claimed[0], return_value='"kept"'),
            failure(claimed[1]),
            retry(claimed[2], return_value=None),
        ][:count]
        with the_table_away():
            for outcome in outcomes:
                completer.put(outcome)
            eventually(lambda: len(flushes) >= 8, timeout=60)
        eventually(lambda: not completer.backlog, timeout=60)

        rows = [Task.objects.get(pk=outcome.task.pk) for outcome in outcomes]
        assert [row.status for row in rows] == ["SUCCESSFUL", "FAILED", "SCHEDULED"][:count]
        assert rows[0].return_value == '"kept"'
        assert {row.last_error for row in rows[1:]} <= {FAILURE.traceback}
        assert {row.error_class for row in rows[1:]} <= {FAILURE.error_class}

    def test_stop_returns_false_for_unwritten_outcomes(self, completer, claimed):
        with the_table_away():
            completer.put(success(claimed[0]))

            assert not completer.stop(0.5)

    def test_unwritten_outcome_is_not_reported_as_rescued(self, completer, claimed, reported):
        with the_table_away():
            completer.put(success(claimed[0]))
            completer.stop(0.5)

        assert [(accepted, fenced) for accepted, fenced in reported if accepted or fenced] == []

    def test_of_the_reply_alone_is_found_out_by_reading_back(
        self, completer, claimed, monkeypatch, reported
    ):
        """Kind of fault: an outcome is accepted, and no signal tells so."""
        really, lost = module.finish_attempts, [True]

        def finish_attempts(outcomes):
            accepted = really(outcomes)
            if lost and lost.pop():
                raise OperationalError("the server closed the connection")
            return accepted

        monkeypatch.setattr(module, "finish_attempts", finish_attempts)
        outcome = success(claimed[0])
        completer.put(outcome)

        assert eventually(lambda: reported) == [([(outcome, "SUCCESSFUL")], [])]

    @pytest.mark.parametrize("refusals", [1, 2, 3])
    def test_outage_that_ends_between_two_flushes_replaces_no_outcome(
        self, completer, claimed, monkeypatch, refusals
    ):
        """Kind of fault: a refusal of a server that was just promoted is blamed on the data."""
        really, errors = module.flush, [DataError("refused")] * refusals

        def flush(outcomes):
            if errors:
                raise errors.pop()
            return really(outcomes)

        monkeypatch.setattr(module, "flush", flush)
        completer.put(success(claimed[0], return_value='"kept"'))

        eventually(Task.objects.succeeded().exists)
        assert Task.objects.get(pk=claimed[0].pk).return_value == '"kept"'


# An error that the same row causes each time, and that is not about its data.
CANNOT = {
    "sqlite": [
        "CREATE TRIGGER cannot BEFORE UPDATE ON bgtask_task "
        "WHEN NEW.return_value LIKE '%hard%' BEGIN SELECT abs(-9223372036854775808); END"
    ],
    "postgresql": [
        "CREATE FUNCTION cannot() RETURNS trigger AS $$ "
        "BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = '53100'; END $$ LANGUAGE plpgsql",
        "CREATE TRIGGER cannot BEFORE UPDATE ON bgtask_task FOR EACH ROW "
        "WHEN (NEW.return_value LIKE '%hard%') EXECUTE FUNCTION cannot()",
    ],
    "mysql": [
        "CREATE TRIGGER cannot BEFORE UPDATE ON bgtask_task FOR EACH ROW "
        "IF NEW.return_value LIKE '%hard%' THEN SIGNAL SQLSTATE 'HY000' "
        "SET MYSQL_ERRNO = 1021, MESSAGE_TEXT = 'Disk full'; END IF"
    ],
}
# An error of the data.
REFUSES = {
    "sqlite": [CANNOT["sqlite"][0].replace("abs(-9223372036854775808)", "RAISE(ABORT, 'no')")],
    "postgresql": [CANNOT["postgresql"][0].replace("53100", "22000"), CANNOT["postgresql"][1]],
    "mysql": [CANNOT["mysql"][0].replace("1021", "1366")],
}


@contextlib.contextmanager
def triggers(statements):
    with connection.cursor() as cursor:
        for statement in statements[connection.vendor]:
            cursor.execute(statement)
        try:
            yield
        finally:
            if connection.vendor == "postgresql":
                cursor.execute("DROP FUNCTION cannot() CASCADE")
            else:
                cursor.execute("DROP TRIGGER cannot")


class TestRefusedOutcome:
    """Test that a refused outcome is kept, and doesn't hold up the others of its batch."""

    def test_refused_outcome_is_kept_while_others_are_written(
        self, completer, claimed, monkeypatch, reported
    ):
        monkeypatch.setattr(module, "KEPT_RETRY_SECONDS", 0.2)
        with triggers(CANNOT):
            completer.put(success(claimed[0], return_value='"hard"'))
            completer.put(success(claimed[1], return_value='"easy"'))
            completer.put(failure(claimed[2]))
            eventually(lambda: Task.objects.finished().count() == 2, timeout=60)
            eventually(lambda: completer.backlog == 1)  # The batch counts until all are tried.
            assert Task.objects.get(pk=claimed[2].pk).last_error == FAILURE.traceback
        eventually(lambda: not completer.backlog, timeout=60)

        assert Task.objects.get(pk=claimed[0].pk).return_value == '"hard"'
        assert Task.objects.get(pk=claimed[1].pk).return_value == '"easy"'
        assert sorted(
            outcome.task.pk for accepted, _ in reported for outcome, _ in accepted
        ) == sorted(task.pk for task in claimed)

    def test_refused_outcome_does_not_block_later_outcomes(self, completer, claimed, flushes):
        with triggers(CANNOT):
            completer.put(success(claimed[0], return_value='"hard"'))
            eventually(lambda: len(flushes) >= 3, timeout=60)
            completer.put(success(claimed[1]))

            eventually(lambda: Task.objects.succeeded().count() == 1, timeout=60)
            assert Task.objects.get(pk=claimed[0].pk).status == "RUNNING"

    def test_stop_returns_false_for_unwritten_outcomes(self, completer, claimed, reported):
        with triggers(CANNOT):
            completer.put(success(claimed[0], return_value='"hard"'))
            completer.put(success(claimed[1]))
            eventually(lambda: Task.objects.succeeded().count() == 1, timeout=60)

            assert not completer.stop(0.5)
        assert not any(fenced for _, fenced in reported)

    def test_refused_outcome_is_dropped_once_its_task_is_deleted(
        self, completer, claimed, monkeypatch, reported
    ):
        monkeypatch.setattr(module, "KEPT_RETRY_SECONDS", 0.2)
        with triggers(CANNOT):
            hard = success(claimed[0], return_value='"hard"')
            completer.put(hard)
            completer.put(success(claimed[1]))
            eventually(lambda: Task.objects.succeeded().count() == 1, timeout=60)
            Task.objects.filter(pk=claimed[0].pk).delete()
            eventually(lambda: not completer.backlog, timeout=60)

        assert [fenced for _, fenced in reported if fenced] == [[hard]]

    def test_outcome_refused_twice_is_replaced_by_an_error(self, completer, claimed, flushes):
        with triggers(REFUSES):
            completer.put(success(claimed[0], return_value='"hard"'))
            completer.put(success(claimed[1], return_value='"easy"'))
            eventually(lambda: Task.objects.succeeded().count() == 2, timeout=60)

        assert Task.objects.get(pk=claimed[0].pk).return_value is None
        assert Task.objects.get(pk=claimed[1].pk).return_value == '"easy"'

    def test_replaced_outcome_keeps_the_requested_retry_time(self, completer, claimed):
        tomorrow = timezone.now().replace(microsecond=0) + timedelta(days=1)
        with triggers(REFUSES):
            completer.put(retry(claimed[0], delay=None, run_at=tomorrow, return_value='"hard"'))
            eventually(Task.objects.scheduled().exists, timeout=60)

        assert Task.objects.scheduled().get().run_at == tomorrow


def test_logging_handler_that_raises_loses_no_outcome(completer, claimed, monkeypatch, request):
    class Broken(logging.Handler):
        def emit(self, record):
            raise RuntimeError("disk full")

    really, failures = module.flush, iter([OperationalError("for a moment")])

    def flush(outcomes):
        for error in failures:
            raise error
        return really(outcomes)

    handler = Broken()
    logging.getLogger("bgtask").addHandler(handler)
    request.addfinalizer(lambda: logging.getLogger("bgtask").removeHandler(handler))
    monkeypatch.setattr(module, "flush", flush)

    completer.put(success(claimed[0]))

    eventually(Task.objects.succeeded().exists)
    assert completer.is_alive()
