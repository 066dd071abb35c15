"""A heartbeat renews the lease, and says how long the worker may rely on it and judge others."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.db import OperationalError, connection

from bgtask.models import Task, TaskStats, Worker
from bgtask.worker import heartbeat as module
from bgtask.worker.heartbeat import Heartbeat
from bgtask.worker.statistics import Statistics
from tests.bgtask.lifecycle.outcomes import success
from tests.factories import TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db

LEASE, INTERVAL = 60, 10


class Clock:
    """The monotonic clock of this host. It shows the seconds since the worker registered."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch, settings):
    settings.BGTASK = {"LEASE": LEASE, "HEARTBEAT_INTERVAL": INTERVAL}
    clock = Clock()
    monkeypatch.setattr(module, "clock", clock)
    return clock


@pytest.fixture
def statistics():
    statistics = Statistics()
    statistics.set_clock(datetime.now(UTC))
    return statistics


@pytest.fixture
def heartbeat(clock, statistics):
    """Return a heartbeat whose thread is not started, so that only the test sends one."""
    return Heartbeat(
        WorkerFactory(),
        statistics,
        clock.now,
        holds=lambda: True,
        stuck=lambda: 0,
        on_beat=lambda cancelled: None,
    )


def beat_at(clock, heartbeat, *times):
    for clock.now in times:
        heartbeat.beat()


def refusing(word):
    """Refuse the statements that contain this word, as a database does that was just lost."""

    def execute(run, sql, *args):
        if word in sql:
            raise OperationalError("the server closed the connection")
        return run(sql, *args)

    return connection.execute_wrapper(execute)


class TestTrust:
    def test_trust_ends_a_margin_before_the_lease_of_the_beat(self, clock, heartbeat):
        beat_at(clock, heartbeat, 10)

        clock.now = 54.9
        assert heartbeat.trusted()
        clock.now = 55.1
        assert not heartbeat.trusted()

    def test_trust_counts_from_the_start_of_a_beat_and_not_from_its_reply(self, clock, heartbeat):
        """Kind of fault: a slow reply prolonged the trust beyond the lease in the database."""

        def reply_late(run, *args):
            result = run(*args)
            clock.now += 30
            return result

        with connection.execute_wrapper(reply_late):
            heartbeat.beat()

        clock.now = 45.1
        assert not heartbeat.trusted()

    def test_trust_ends_when_the_worker_is_declared_dead(self, clock, heartbeat):
        Worker.objects.declare_dead()

        heartbeat.beat()

        assert heartbeat.declared_dead
        assert not heartbeat.trusted()


class TestJudging:
    """Nobody may declare others dead before they had the time to send a heartbeat."""

    def test_judging_begins_after_two_intervals(self, clock, heartbeat):
        beat_at(clock, heartbeat, 10, 20)
        assert not heartbeat.steady()

        beat_at(clock, heartbeat, 20.1)
        assert heartbeat.steady()

    def test_judging_begins_again_after_an_outage(self, clock, heartbeat):
        beat_at(clock, heartbeat, 30)
        assert heartbeat.steady()

        beat_at(clock, heartbeat, 300, 310, 320)
        assert not heartbeat.steady()

        beat_at(clock, heartbeat, 320.1)
        assert heartbeat.steady()


class TestStatistics:
    """The figures are written with the beat, or kept for the next."""

    @pytest.fixture
    def counted(self, statistics):
        statistics.add([(success(Task(task_name="a")), "SUCCESSFUL")])

    @pytest.mark.parametrize("refused", ["bgtask_worker", "bgtask_taskstats"])
    def test_next_beat_writes_the_statistics_of_a_beat_that_failed(
        self, heartbeat, counted, refused
    ):
        with refusing(refused), pytest.raises(OperationalError):
            heartbeat.beat()
        assert not TaskStats.objects.exists()

        heartbeat.beat()
        heartbeat.beat()

        assert TaskStats.objects.get().succeeded == 1

    def test_statistics_are_not_written_without_their_beat(self, heartbeat, counted):
        """Kind of fault: two statements of one change, and only the first committed."""
        before = Worker.objects.values().get()

        with refusing("bgtask_taskstats"), pytest.raises(OperationalError):
            heartbeat.beat()

        assert Worker.objects.values().get() == before


def test_beat_returns_cancel_requests_of_its_own_tasks_only(heartbeat):
    mine = TaskFactory(status="RUNNING", locked_by=heartbeat.worker, cancel_requested=True)
    TaskFactory(status="RUNNING", locked_by=heartbeat.worker)
    TaskFactory(status="RUNNING", cancel_requested=True)

    assert heartbeat._cancel_requests() == {mine.pk}
