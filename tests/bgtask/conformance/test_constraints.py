"""The database itself refuses a row that no move would have made."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection, transaction

from bgtask.dialects import Clock
from bgtask.models import Attempt, Task
from bgtask.status import AttemptOutcome, HeldFor, Status
from tests.factories import AttemptFactory, TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db

NOT_RUNNING = sorted(set(Status) - {Status.RUNNING})


def refuses(task, **changes):
    with pytest.raises(IntegrityError), transaction.atomic():
        Task.objects.filter(pk=task.pk).update(**changes)
    return True


@pytest.mark.parametrize("missing", ["locked_by", "locked_at", "deadline_at"])
def test_what_runs_is_held_by_somebody_since_and_until_a_time(missing):
    assert refuses(TaskFactory(status=Status.RUNNING), **{missing: None})


@pytest.mark.parametrize("stray", ["locked_by", "locked_at", "deadline_at"])
@pytest.mark.parametrize("status", NOT_RUNNING)
def test_what_does_not_run_is_held_by_nobody(status, stray):
    value = WorkerFactory() if stray == "locked_by" else Clock()

    assert refuses(TaskFactory(status=status), **{stray: value})


@pytest.mark.parametrize("status", NOT_RUNNING)
def test_nothing_stops_running_and_stays_locked(status):
    held_for = HeldFor.TYPE if status == Status.HELD else None

    assert refuses(TaskFactory(status=Status.RUNNING), status=status, held_for=held_for)


def test_what_is_held_says_for_what():
    assert refuses(TaskFactory(status=Status.HELD), held_for=None)


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.HELD}))
def test_what_is_not_held_is_held_for_nothing(status):
    assert refuses(TaskFactory(status=status), held_for=HeldFor.OPERATOR)


def test_nobody_holds_what_no_worker_has_reported_for():
    task = TaskFactory(status=Status.RUNNING)

    def assign():
        with transaction.atomic():
            Task.objects.filter(pk=task.pk).update(locked_by=10**9)
            # PostgreSQL and SQLite check foreign keys at the end of a transaction.
            connection.check_constraints()

    with pytest.raises(IntegrityError):
        assign()


@pytest.mark.parametrize("outcome", AttemptOutcome)
def test_the_value_of_an_outcome_is_one_word_that_its_column_holds(outcome):
    """Kind of fault: a value that URLs, JSON and metrics have to quote."""
    attempt = AttemptFactory(outcome=outcome)

    attempt.refresh_from_db()
    assert attempt.outcome == outcome.name.lower()


def test_an_attempt_has_one_end():
    task = TaskFactory()
    Attempt.objects.create(task=task, token=1, number=1, finished_at=Clock())

    with pytest.raises(IntegrityError), transaction.atomic():
        Attempt.objects.create(task=task, token=1, number=1, finished_at=Clock())


def test_a_unique_key_stands_once_and_no_key_any_number_of_times():
    TaskFactory.create_batch(2, unique_key=None)
    TaskFactory(unique_key="Invoice 7")
    TaskFactory(unique_key="invoice 7")

    with pytest.raises(IntegrityError), transaction.atomic():
        TaskFactory(unique_key="Invoice 7")
