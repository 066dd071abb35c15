"""Matrix rows 60, 63, 64: many rows, many workers, much coming and going."""

from __future__ import annotations

import random
import time

import pytest

from bgtask.lifecycle.claim import claim_queue
from bgtask.models import Task, Worker
from tests.helpers import eventually
from tests.system.faults import tasks
from tests.threads import all_at_once

CALM = {"LEASE": 60, "HEARTBEAT_INTERVAL": 10}


def test_sixteen_workers_claim_different_tasks_from_one_queue(testbed):
    tasks.quick.enqueue_many([(number,) for number in range(800)])
    workers = [Worker.register() for _ in range(16)]

    def claims(worker):
        return lambda: [task.pk for _ in range(10) for task in claim_queue(worker, "default", 5)]

    claimed = all_at_once(*map(claims, workers))

    everything = [id_ for ids in claimed for id_ in ids]
    assert len(everything) == len(set(everything))
    assert len(everything) >= 16 * 5  # And they got something.


@pytest.mark.thorough
def test_idle_workers_send_few_statements(served):
    for _ in range(2):
        served.worker("--threads=4", "--sleep=5", **CALM)
    eventually(lambda: Worker.objects.alive().count() == 2, timeout=30, explain=served.output)
    time.sleep(15)  # What a start brings with it, and PostgreSQL tells of late.

    before = _statements(served.server)
    time.sleep(30)
    asked = _statements(served.server) - before

    assert asked < 2 * 30 * 2  # Two a second and process, chores and beats included.


@pytest.mark.thorough
def test_restarting_workers_lose_no_task(testbed, settled):
    dice = random.Random(64)
    committed = {tasks.nap(0.1).pk for _ in range(1_000)}

    for _ in range(6):
        workers = [testbed.worker("--threads=2") for _ in range(6)]
        time.sleep(dice.uniform(2, 10))
        for worker in workers:
            if dice.random() < 0.5:
                testbed.kill(worker.pid)
            else:
                worker.send_signal(15)
        for worker in workers:
            worker.wait(30)
    testbed.worker("--threads=4")
    audit = settled(committed, timeout=120)

    assert max(audit.executions) <= 3


@pytest.mark.thorough
def test_claims_are_as_quick_among_many_rows_as_among_few(testbed):
    few = _slowest_claims(testbed, rows=2_000)
    many = _slowest_claims(testbed, rows=100_000)

    assert many < 3 * few + 0.01


def _slowest_claims(testbed, rows):
    """Return the 99th percentile of the seconds that a claim takes.

    The table has ``rows`` ready tasks, as many scheduled ones and as many cancelled ones.
    """
    Task.objects.all().delete()
    tasks.quick.enqueue_many((number,) for number in range(rows))
    tasks.quick.using(schedule=86_400).enqueue_many((number,) for number in range(rows))
    tasks.quick.using(queue="done").enqueue_many((number,) for number in range(rows))
    Task.objects.filter(queue="done").cancel()
    worker = Worker.register()
    seconds = []
    for _ in range(200):
        started = time.perf_counter()
        assert len(claim_queue(worker, "default", 5)) == 5
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[197]


def _statements(server):
    if server.vendor == "postgresql":
        rows = server.execute(
            "SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database "
            "WHERE datname = current_database()"
        )
        return int(rows[0][0])
    ((_, number),) = server.execute("SHOW GLOBAL STATUS LIKE 'Questions'")
    return int(number)
