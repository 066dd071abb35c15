"""What a worker claims while others are in flight, and what it takes back before it starts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bgtask.db import DatabaseNow
from bgtask.models import Task
from bgtask.status import HeldFor, Status
from bgtask.worker import claim_order
from bgtask.worker.claim_order import ClaimCursor, IsolationGate
from bgtask.worker.claimer import Claimer
from bgtask.worker.in_flight import InFlightTasks
from bgtask.worker.pool import Pool
from tests.bgtask.lifecycle.outcomes import success
from tests.factories import HoldFactory, PauseFactory, TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def worker():
    return WorkerFactory()


@pytest.fixture
def in_flight():
    return InFlightTasks()


@pytest.fixture
def pool():
    """Return a pool whose threads are not started, so that what was claimed keeps waiting."""
    return Pool(4, may_start=lambda: True, on_end=print, on_hungry=print)


@pytest.fixture
def claim(worker, in_flight, pool):
    """Return a function that claims, and returns the ids of the claimed tasks."""
    claimer = Claimer(
        None, in_flight, pool, IsolationGate(), changed_queues=set, on_poll=lambda due: None
    )

    def claim(wanted=10):
        before = running()
        claimer.claim(worker, wanted)
        return running() - before

    return claim


@pytest.fixture
def clock(monkeypatch):
    """Return the monotonic clock of the gate and of the cursor. A test sets its ``now``."""
    clock = SimpleNamespace(now=1_000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(claim_order, "clock", clock)
    return clock


def running():
    return set(Task.objects.running().values_list("pk", flat=True))


class TestSuspects:
    """A suspect runs while its process runs nothing else, or a crash would convict others."""

    def test_suspects_wait_while_a_task_is_in_flight(self, claim, clock, in_flight):
        innocent, suspect = TaskFactory(), TaskFactory(crashes=1)
        assert claim() == {innocent.pk}
        (task,) = in_flight._tasks.values()

        clock.now += claim_order.MAX_ISOLATION_WAIT_SECONDS + 1
        assert claim() == set()

        in_flight.settle([success(task)])
        assert claim() == {suspect.pk}

    def test_suspects_come_before_other_tasks_after_a_long_wait(self, claim, clock):
        suspect = TaskFactory(crashes=1)
        TaskFactory.create_batch(2)
        assert claim(wanted=0) == set()

        clock.now += claim_order.MAX_ISOLATION_WAIT_SECONDS + 1

        assert claim() == {suspect.pk}

    def test_idle_worker_claims_suspects_at_once(self, claim, clock):
        suspect = TaskFactory(crashes=1)

        assert claim() == {suspect.pk}


class TestWithdrawal:
    """A pause or a hold also binds what was claimed ahead and has not started."""

    def test_next_poll_releases_unstarted_tasks_of_a_paused_queue(self, claim, in_flight):
        TaskFactory.create_batch(2, queue="mail")
        other = TaskFactory()
        claim()
        PauseFactory(queue="mail")

        claim()

        assert running() == {other.pk}
        assert set(Task.objects.ready().values_list("queue", "attempts")) == {("mail", 0)}
        assert set(in_flight._tasks) == {other.pk}

    def test_next_poll_sets_aside_unstarted_tasks_on_hold(self, claim, in_flight):
        held = TaskFactory(task_name="tests.tasks.add")
        other = TaskFactory()
        claim()
        HoldFactory(task_name="tests.tasks.add")

        claim()

        assert running() == {other.pk}
        assert Task.objects.filter(status=Status.HELD, held_for=HeldFor.TYPE).get() == held
        assert set(in_flight._tasks) == {other.pk}

    def test_next_poll_ignores_pauses_and_holds_that_are_over(self, claim):
        claimed = TaskFactory.create_batch(2)
        PauseFactory(expires_at=DatabaseNow(-1))
        HoldFactory(expires_at=DatabaseNow(-1))

        claim()
        claim()

        assert running() == {task.pk for task in claimed}


class TestCursor:
    """Kind of fault: a position that is used for too long hides more pressing tasks."""

    def test_cursor_forgets_its_position_after_a_second(self, clock):
        position = ClaimCursor()
        position.advance("mail", (0, "then", 1))
        clock.now += 0.6
        position.advance("mail", (0, "then", 2))
        assert position.get("mail") == (0, "then", 2)

        clock.now += 0.6

        assert position.get("mail") is None

    def test_cursor_forgets_its_position_after_its_number_of_claims(self, clock):
        position = ClaimCursor()
        for number in range(claim_order.CURSOR_LIFETIME_CLAIMS):
            position.advance("mail", (0, "then", number))

        assert position.get("mail") is None
