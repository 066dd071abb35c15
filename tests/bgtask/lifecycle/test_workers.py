"""A worker is alive while its heartbeats come. Once declared dead it stays dead."""

from __future__ import annotations

from collections import Counter

import pytest
from django.db import connection

from bgtask.db import DatabaseNow, SecondsSince
from bgtask.models import Task, Worker
from bgtask.status import WorkerState
from tests.factories import TaskFactory, WorkerFactory
from tests.threads import all_at_once

pytestmark = pytest.mark.django_db


def state_of(worker):
    return Worker.objects.values_list("state", flat=True).get(pk=worker.pk)


def lease_of(worker):
    """Seconds that are left of it, by the clock of the database."""
    return -Worker.objects.annotate(since=SecondsSince("lease_expires_at")).get(pk=worker.pk).since


def lose_workers():
    """Do what a failover to a standby does that received none of them."""
    Worker.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute(
            {
                "sqlite": "DELETE FROM sqlite_sequence WHERE name = 'bgtask_worker'",
                "postgresql": (
                    "SELECT setval(pg_get_serial_sequence('bgtask_worker', 'id'), 1, false)"
                ),
                "mysql": "ALTER TABLE bgtask_worker AUTO_INCREMENT = 1",
            }[connection.vendor]
        )


class TestLease:
    def test_lease_starts_with_the_registration(self, settings):
        settings.BGTASK = {"LEASE": 90}

        worker = Worker.register(["mail", "default"], threads=3)

        assert state_of(worker) == WorkerState.ALIVE
        assert lease_of(worker) == pytest.approx(90, abs=10)
        assert (worker.queues, worker.threads) == ("mail,default", 3)

    def test_heartbeat_renews_the_lease(self, settings):
        settings.BGTASK = {"LEASE": 90}
        worker = WorkerFactory(silent=True)

        assert worker.beat()
        assert lease_of(worker) == pytest.approx(90, abs=10)

    def test_each_registration_makes_a_new_row(self):
        """Even of one process: the row of a worker that was declared dead stays dead."""
        first = Worker.register()
        first.deregister()
        second = Worker.register()

        assert (state_of(first), state_of(second)) == (WorkerState.DEAD, WorkerState.ALIVE)
        assert (first.pid, first.label) == (second.pid, second.label)

    @pytest.mark.django_db(transaction=True)
    def test_an_id_whose_row_was_lost_is_not_given_to_another(self):
        """Kind: commits lost, with the ids that they had drawn from the sequence."""
        first = Worker.register()
        lose_workers()
        second = Worker.register()

        assert first.pk != second.pk
        assert max(first.pk, second.pk) < 2**53
        assert (first.beat(), second.beat()) == (False, True)


class TestDeath:
    def test_only_silent_workers_are_declared_dead(self):
        silent, alive = WorkerFactory(silent=True), WorkerFactory()

        assert Worker.objects.silent().declare_dead() == 1
        assert (state_of(silent), state_of(alive)) == (WorkerState.DEAD, WorkerState.ALIVE)

    @pytest.mark.parametrize("state", [WorkerState.ALIVE, WorkerState.STOPPING])
    def test_dead_worker_stays_dead(self, state):
        worker = WorkerFactory(state=state)
        Worker.objects.all().declare_dead()
        lease = Worker.objects.get().lease_expires_at

        assert not worker.beat()
        assert not worker.mark_stopping()
        assert not worker.deregister()
        assert Worker.objects.all().declare_dead() == 0
        assert Worker.objects.get().lease_expires_at == lease
        assert state_of(worker) == WorkerState.DEAD

    def test_late_heartbeat_succeeds_before_the_worker_is_declared_dead(self):
        worker = WorkerFactory(silent=True)
        worker.beat()

        assert Worker.objects.silent().declare_dead() == 0
        assert worker.beat()

    @pytest.mark.django_db(transaction=True)
    def test_only_one_of_a_concurrent_heartbeat_and_declaration_succeeds(self):
        for _ in range(10):
            worker = WorkerFactory(silent=True)

            beaten, declared = all_at_once(worker.beat, Worker.objects.silent().declare_dead)

            assert declared == (state_of(worker) == WorkerState.DEAD)
            assert beaten or declared
            assert worker.beat() == (not declared)

    def test_the_first_time_that_it_was_told_to_stop_is_kept(self):
        stopped = WorkerFactory(stopped_at=DatabaseNow(-100))
        told_now = WorkerFactory()

        assert Worker.objects.all().record_stop() == 1

        since = dict(
            Worker.objects.annotate(since=SecondsSince("stopped_at")).values_list("pk", "since")
        )
        assert since[stopped.pk] >= 100
        assert since[told_now.pk] < 100

    def test_declaring_a_worker_dead_does_not_change_its_tasks(self):
        task = TaskFactory(status="RUNNING")

        Worker.objects.all().declare_dead()

        assert Task.objects.running().get() == task


class TestEnd:
    def test_stopping_worker_keeps_its_lease_and_its_heartbeats(self):
        worker = WorkerFactory()

        assert worker.mark_stopping()
        assert state_of(worker) == WorkerState.STOPPING
        assert worker.beat()
        assert state_of(worker) == WorkerState.STOPPING

    def test_deregistered_worker_is_dead(self):
        worker = WorkerFactory()

        assert worker.deregister()
        assert state_of(worker) == WorkerState.DEAD

    def test_old_dead_workers_without_tasks_are_deleted(self):
        kept = [
            WorkerFactory(dead=True),
            WorkerFactory(heartbeat_at=DatabaseNow(-1000)),
            WorkerFactory(dead=True, heartbeat_at=DatabaseNow(-1000)),
        ]
        TaskFactory(status="RUNNING", locked_by=kept[-1])
        WorkerFactory(dead=True, heartbeat_at=DatabaseNow(-1000))

        refused: Counter[str] = Counter()

        assert Worker.objects.prune(500, refused) == 1
        assert set(Worker.objects.all()) == set(kept)
        assert not refused
