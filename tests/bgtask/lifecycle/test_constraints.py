"""Test that the database itself refuses a row that no transition makes."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection, transaction

from bgtask.db import DatabaseNow
from bgtask.models import Attempt, Schedule, Slot, Task
from bgtask.status import AttemptOutcome, HeldFor, Status
from tests.bgtask.schedules.conftest import make
from tests.factories import AttemptFactory, TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db

NOT_RUNNING = sorted(set(Status) - {Status.RUNNING})


def refuses(task, **changes):
    with pytest.raises(IntegrityError), transaction.atomic():
        Task.objects.filter(pk=task.pk).update(**changes)
    return True


@pytest.mark.parametrize("missing", ["locked_by", "locked_at", "deadline_at"])
def test_running_task_needs_a_worker_a_start_and_a_deadline(missing):
    assert refuses(TaskFactory(status=Status.RUNNING), **{missing: None})


@pytest.mark.parametrize("stray", ["locked_by", "locked_at", "deadline_at"])
@pytest.mark.parametrize("status", NOT_RUNNING)
def test_task_that_is_not_running_has_no_worker(status, stray):
    value = WorkerFactory() if stray == "locked_by" else DatabaseNow()

    assert refuses(TaskFactory(status=status), **{stray: value})


@pytest.mark.parametrize("status", NOT_RUNNING)
def test_task_cannot_leave_running_and_stay_locked(status):
    held_for = HeldFor.TYPE if status == Status.HELD else None

    assert refuses(TaskFactory(status=Status.RUNNING), status=status, held_for=held_for)


def test_held_task_needs_a_reason():
    assert refuses(TaskFactory(status=Status.HELD), held_for=None)


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.HELD}))
def test_task_that_is_not_held_has_no_hold_reason(status):
    assert refuses(TaskFactory(status=status), held_for=HeldFor.OPERATOR)


def test_task_cannot_be_locked_by_an_unknown_worker():
    task = TaskFactory(status=Status.RUNNING)

    def assign():
        with transaction.atomic():
            Task.objects.filter(pk=task.pk).update(locked_by=10**9)
            # PostgreSQL and SQLite check foreign keys at the end of a transaction.
            connection.check_constraints()

    with pytest.raises(IntegrityError):
        assign()


@pytest.mark.parametrize("outcome", AttemptOutcome)
def test_outcome_values_are_single_words_that_fit_their_column(outcome):
    """Kind of fault: a value that URLs, JSON and metrics have to quote."""
    attempt = AttemptFactory(outcome=outcome)

    attempt.refresh_from_db()
    assert attempt.outcome == outcome.name.lower()


def test_attempt_has_only_one_row_of_history():
    task = TaskFactory()
    Attempt.objects.create(task=task, token=1, number=1, finished_at=DatabaseNow())

    with pytest.raises(IntegrityError), transaction.atomic():
        Attempt.objects.create(task=task, token=1, number=1, finished_at=DatabaseNow())


def test_unique_key_is_unique_and_null_is_not():
    TaskFactory.create_batch(2, unique_key=None)
    TaskFactory(unique_key="Invoice 7")
    TaskFactory(unique_key="invoice 7")

    with pytest.raises(IntegrityError), transaction.atomic():
        TaskFactory(unique_key="Invoice 7")


def test_a_schedule_has_each_slot_once_and_any_number_of_runs_by_hand():
    schedule = make()
    for _ in range(2):
        Slot.objects.create(schedule=schedule, decision="by_hand", decided_at=DatabaseNow())
    moment = make("tests.other").next_at
    Slot.objects.create(schedule=schedule, slot=moment, decided_at=DatabaseNow())
    with pytest.raises(IntegrityError), transaction.atomic():
        Slot.objects.create(schedule=schedule, slot=moment, decided_at=DatabaseNow())


def test_a_schedule_does_not_end_before_its_start():
    schedule = make()
    with pytest.raises(IntegrityError), transaction.atomic():
        Schedule.objects.filter(pk=schedule.pk).update(end_at=schedule.start_at)
