"""The database cuts a worker's connections."""

from __future__ import annotations

import signal
from collections import Counter

import pytest
from django.db import connection

from bgtask.models import Attempt, Task
from tests import tasks
from tests.helpers import eventually
from tests.system.acceptance.conftest import statuses, until_alive

pytestmark = [pytest.mark.acceptance, pytest.mark.vendor("postgresql", "mysql")]


def cut_all_other_connections():
    """Return how many."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return len(cursor.fetchall())
        cursor.execute(
            "SELECT id FROM information_schema.processlist "
            "WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        )
        others = [id_ for (id_,) in cursor.fetchall()]
        for other in others:
            cursor.execute("KILL %s", [other])
        return len(others)


@pytest.mark.sample
def test_each_task_runs_once_despite_an_outage(worker, until_ended, execution_log):
    children = [worker("--threads=2", "--sleep=0.2", LEASE=60) for _ in range(2)]
    for child in children:
        until_alive(child)
    tasks.note.enqueue_many([(number, 0.005) for number in range(1_000)])

    cuts = 0
    for started in range(100, 1_000, 150):
        eventually(lambda: len(execution_log.executions()) >= started, timeout=60)  # noqa: B023
        cuts += cut_all_other_connections()
    until_ended(*children, timeout=120)

    assert cuts > 12
    assert statuses() == {"SUCCESSFUL": 1_000}
    assert Counter(one.task for one in execution_log.executions()) == Counter(
        Task.objects.values_list("pk", flat=True)
    )
    assert not Attempt.objects.exists()


def test_task_that_was_running_keeps_its_outcome(worker, gate, until_running, until_ended):
    task = tasks.wait_for(gate.path)
    child = worker()
    until_running(task, child)

    assert cut_all_other_connections()
    gate.open()
    until_ended(child)

    assert statuses() == {"SUCCESSFUL": 1}
    assert not Attempt.objects.exists()


def test_idle_worker_survives_an_outage_and_stops_cleanly(worker, until_ended):
    child = worker("--sleep=0.2")
    until_alive(child)
    tasks.note()
    until_ended(child)

    assert cut_all_other_connections()
    tasks.note()
    until_ended(child)
    child.send_signal(signal.SIGTERM)

    assert child.wait() == 0


@pytest.mark.vendor("postgresql")
def test_idle_worker_is_woken_after_an_outage(worker, until_ended):
    child = worker("--sleep=3600")
    until_alive(child)
    tasks.note()
    until_ended(child)

    for _ in range(3):
        assert cut_all_other_connections()
        tasks.note()
        until_ended(child, timeout=90)
