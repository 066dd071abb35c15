"""What a worker holds in memory and in the database must agree."""

from __future__ import annotations

import copy

import pytest
from django.db import OperationalError, connection

from bgtask.context import CurrentTask
from bgtask.lifecycle.claim import claim_queue
from bgtask.models import Task
from bgtask.status import Status
from bgtask.worker.in_flight import InFlightTasks
from tests.bgtask.lifecycle.outcomes import success
from tests.factories import TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def worker():
    return WorkerFactory()


@pytest.fixture
def in_flight():
    return InFlightTasks()


@pytest.fixture
def claim(worker):
    def claim(number=1):
        TaskFactory.create_batch(number)
        return claim_queue(worker, "default", number)

    return claim


def older(task):
    """Return the task as an earlier claim knows it."""
    earlier = copy.copy(task)
    earlier.token -= 1
    return earlier


def statuses():
    return dict(Task.objects.values_list("pk", "status"))


class TestSettle:
    def test_settling_removes_the_claim_whose_attempt_has_ended(self, in_flight, claim):
        (task,) = claim()
        in_flight.add([task])

        in_flight.settle([success(task)])

        assert not in_flight

    def test_settling_leaves_a_newer_claim_of_the_same_task(self, in_flight, claim):
        (task,) = claim()
        in_flight.add([task])

        in_flight.settle([success(older(task))])

        assert in_flight


class TestReconcile:
    def test_reconciling_releases_only_claims_that_memory_does_not_know(
        self, in_flight, worker, claim
    ):
        known, stray = claim(2)
        in_flight.add([known])
        of_another = TaskFactory(status=Status.RUNNING)

        in_flight.reconcile(worker, [])

        assert statuses() == {
            known.pk: Status.RUNNING,
            stray.pk: Status.READY,
            of_another.pk: Status.RUNNING,
        }

    def test_reconciling_releases_a_newer_claim_than_memory_knows(self, in_flight, worker, claim):
        (task,) = claim()
        in_flight.add([older(task)])

        in_flight.reconcile(worker, [])

        assert statuses() == {task.pk: Status.READY}

    def test_reconciling_marks_running_tasks_of_other_workers_as_lost(
        self, in_flight, worker, claim
    ):
        kept, lost = claim(2)
        in_flight.add([kept, lost])
        Task.objects.filter(pk=lost.pk).cancel(force=True)
        running = [CurrentTask(kept), CurrentTask(lost)]

        in_flight.reconcile(worker, running)

        assert [current.lost_at is not None for current in running] == [False, True]
        assert [current.cancel_requested for current in running] == [False, True]
        in_flight.settle([success(kept)])
        assert not in_flight


@pytest.mark.django_db(transaction=True)
def test_next_reconciling_releases_tasks_that_could_not_be_released(in_flight, worker, claim):
    """Kind of fault: a task that is in memory only, so that nobody runs or releases it."""
    (task,) = claim()
    in_flight.add([task])

    def refuse(run, sql, *args):
        raise OperationalError("the server closed the connection")

    with connection.execute_wrapper(refuse), pytest.raises(OperationalError):
        in_flight.release([task])
    in_flight.reconcile(worker, [])

    assert statuses() == {task.pk: Status.READY}
