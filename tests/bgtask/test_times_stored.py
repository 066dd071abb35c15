"""
Times are right in whatever zone the database keeps them.

Each test knows what is right from UTC alone, and tolerates what a busy machine may take, but no
quarter of an hour: the suite's own zone is 5:45 off. ``test_time_zones.py`` runs them with other
settings.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from bgtask import Retry, background
from bgtask.db.routing import database_now
from bgtask.lifecycle.claim import claim_queue, take_snapshot
from bgtask.lifecycle.promote import promote_due
from bgtask.lifecycle.rescue import rescue_tasks
from bgtask.lifecycle.retention import Pruning
from bgtask.models import Task, Worker
from bgtask.status import Status
from bgtask.testing import run_due
from tests.helpers import eventually
from tests.tasks import add, fail

pytestmark = pytest.mark.django_db

MINUTE = 60.0


@background
def ask_for(seconds):
    raise Retry(at=timezone.now() + timedelta(seconds=seconds))


@background
def ask_for_an_aware_datetime(text):
    raise Retry(at=datetime.fromisoformat(text))


def from_now(time):
    """Seconds from now by the clock of this host, which a test shares with the database."""
    if timezone.is_naive(time):
        time = timezone.make_aware(time, timezone.get_default_timezone())
    return (time - datetime.now(UTC)).total_seconds()


def now_as_given(**difference):
    """As a view would say it: aware, or naive where USE_TZ is False."""
    return timezone.now() + timedelta(**difference)


def test_the_clock_of_the_database_is_read_as_now():
    assert from_now(database_now("default")) == pytest.approx(0, abs=MINUTE)


def test_the_clock_of_the_database_goes_on_within_a_transaction():
    """Kind of fault: PostgreSQL's now() is the start of the transaction, however long ago."""
    with transaction.atomic():
        before = database_now("default")

        eventually(lambda: database_now("default") > before)


@pytest.mark.parametrize("schedule", [None, 3_600, timedelta(hours=-1)], ids=repr)
def test_a_task_is_stored_with_times_by_the_clock(schedule):
    task = add.using(schedule=schedule)(1, 2)
    as_returned = (task.run_at, task.enqueued_at)

    task.refresh_from_db()
    expected = timedelta(seconds=schedule) if isinstance(schedule, int) else schedule or timedelta()
    assert from_now(task.enqueued_at) == pytest.approx(0, abs=MINUTE)
    assert from_now(task.run_at) == pytest.approx(expected.total_seconds(), abs=MINUTE)
    assert as_returned == (task.run_at, task.enqueued_at)
    assert timezone.is_aware(task.run_at) == settings.USE_TZ


@pytest.mark.parametrize(("minutes", "status"), [(-10, "READY"), (10, "SCHEDULED")])
def test_a_datetime_is_ready_or_scheduled_by_the_clock(minutes, status):
    task = add(1, 2, schedule=now_as_given(minutes=minutes))

    task.refresh_from_db()
    assert task.status == status
    assert from_now(task.run_at) == pytest.approx(minutes * 60, abs=MINUTE)


@pytest.mark.parametrize(("minutes", "status"), [(-10, "READY"), (10, "SCHEDULED")])
def test_naive_and_aware_datetimes_mean_the_same_instant(minutes, status):
    when = datetime.now(UTC) + timedelta(minutes=minutes)
    if settings.USE_TZ:
        when = timezone.make_naive(when)

    task = add(1, 2, schedule=when)

    task.refresh_from_db()
    assert task.status == status
    assert from_now(task.run_at) == pytest.approx(minutes * 60, abs=MINUTE)


def test_enqueue_many_stores_times_by_the_clock():
    add.using(schedule=now_as_given(hours=2)).enqueue_many([(1, 2), (3, 4)])
    add.using(schedule=60 * 60).enqueue_many([(5, 6)])

    tasks = Task.objects.order_by("pk")
    assert [from_now(task.run_at) for task in tasks] == pytest.approx(
        [7_200, 7_200, 3_600], abs=MINUTE
    )
    assert {task.status for task in tasks} == {"SCHEDULED"}


def test_only_due_tasks_are_promoted():
    due = add(1, 2, schedule=600)
    Task.objects.filter(pk=due.pk).update(run_at=now_as_given(seconds=-5))
    add(3, 4, schedule=600)

    promoted = promote_due()

    assert promoted == 1
    assert list(Task.objects.ready()) == [due]


def test_snapshot_has_the_time_of_the_next_due_task():
    add(1, 2, schedule=600)

    assert take_snapshot().next_due == pytest.approx(600, abs=MINUTE)


def test_a_claim_is_marked_with_the_time_and_its_deadline():
    worker = Worker.register()
    add(1, 2, schedule=-600)

    (claimed,) = claim_queue(worker, "default", limit=1)

    task = Task.objects.get(pk=claimed.pk)
    assert claimed.waited == pytest.approx(600, abs=MINUTE)
    assert from_now(task.locked_at) == pytest.approx(0, abs=MINUTE)
    assert from_now(task.deadline_at) == pytest.approx(3_600, abs=MINUTE)
    assert not Task.objects.overdue().exists()


def test_a_claim_can_begin_behind_the_task_claimed_before():
    worker = Worker.register()
    first, second, third = (add(number, 0, schedule=-number) for number in (600, 400, 200))

    (claimed,) = claim_queue(worker, "default", limit=1)
    rest = claim_queue(worker, "default", limit=2, after=claimed.claim_key)

    assert claimed == first
    assert rest == [second, third]


def test_a_worker_lives_as_long_as_its_lease():
    worker = Worker.register()

    assert from_now(worker.lease_expires_at) == pytest.approx(60, abs=MINUTE)
    assert worker.beat()
    assert list(Worker.objects.alive()) == [worker]
    assert not Worker.objects.silent().exists()


def test_a_silent_worker_is_found():
    worker = Worker.register()
    Worker.objects.update(lease_expires_at=now_as_given(seconds=-5))

    assert list(Worker.objects.silent()) == [worker]


def test_task_past_its_deadline_is_rescued():
    worker = Worker.register()
    add.enqueue_many([(1, 2)] * 2)
    late, punctual = claim_queue(worker, "default", limit=2)
    Task.objects.filter(pk=late.pk).update(deadline_at=now_as_given(seconds=-5))

    rescued = rescue_tasks()

    assert rescued == 1
    late.refresh_from_db()
    assert (late.status, late.history.get().outcome) == ("SCHEDULED", "timed_out")
    assert from_now(late.run_at) == pytest.approx(6, abs=MINUTE)
    assert list(Task.objects.running()) == [punctual]


def test_a_success_has_its_times():
    task = add(1, 2)

    run_due()

    task.refresh_from_db()
    assert from_now(task.started_at) == pytest.approx(0, abs=MINUTE)
    assert from_now(task.finished_at) == pytest.approx(0, abs=MINUTE)


def test_a_retry_has_its_times():
    task = fail()
    Task.objects.update(attempts=5)

    run_due(raise_errors=False)

    task.refresh_from_db()
    attempt = task.history.get()
    assert from_now(task.run_at) == pytest.approx(6**4 + 5, abs=MINUTE)
    assert from_now(attempt.started_at) == pytest.approx(0, abs=MINUTE)
    assert from_now(attempt.finished_at) == pytest.approx(0, abs=MINUTE)


def test_a_retry_at_a_time_of_the_tasks_own_choice_is_at_that_time():
    task = ask_for(7_200)

    run_due()

    task.refresh_from_db()
    assert task.status == "SCHEDULED"
    assert from_now(task.run_at) == pytest.approx(7_200, abs=MINUTE)


def test_a_retry_at_an_aware_datetime_is_at_that_instant():
    when = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    task = ask_for_an_aware_datetime(when)

    run_due()

    task.refresh_from_db()
    assert from_now(task.run_at) == pytest.approx(7_200, abs=MINUTE)


def test_a_requeued_task_is_due_now():
    add(1, 2, schedule=-600)
    run_due()

    Task.objects.finished().requeue()

    task = Task.objects.ready().get()
    assert from_now(task.run_at) == pytest.approx(0, abs=MINUTE)


def test_old_tasks_are_pruned():
    add.enqueue_many([(1, 2)] * 2)
    old, young = run_due()
    Task.objects.filter(pk=old.pk).update(finished_at=now_as_given(minutes=-10))

    pruned = list(Pruning(Status.SUCCESSFUL, age=300))

    assert pruned == [1]
    assert list(Task.objects.all()) == [young]
