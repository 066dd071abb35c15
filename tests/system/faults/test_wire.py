"""Matrix rows 21, 23, 24: what befalls the wire between a worker and its server."""

from __future__ import annotations

import os
import signal
import time

import pytest

from bgtask.models import Attempt, Task, Worker
from tests.helpers import eventually
from tests.system.faults import tasks

LONG_LEASE = {"LEASE": 12, "HEARTBEAT_INTERVAL": 1}
MARIADB_COMMITS = {  # Where PostgreSQL needs one statement.
    "claim": (b"status = 'RUNNING',", b"COMMIT"),
    "finish": (b"UPDATE bgtask_task AS t", b"COMMIT"),
}
POSTGRESQL_COMMITS = {
    "claim": (b"status = 'RUNNING',",),
    "finish": (b"UPDATE bgtask_task AS t",),
}


@pytest.mark.parametrize("move", ["claim", pytest.param("finish", marks=pytest.mark.sample)])
def test_lost_reply_after_a_commit_loses_no_task(wired, settled, move):
    worker = wired.worker(**LONG_LEASE)
    eventually(Worker.objects.alive().exists, timeout=30, explain=worker.output)
    commits = POSTGRESQL_COMMITS if wired.server.vendor == "postgresql" else MARIADB_COMMITS
    wired.proxy.swallow = commits[move]

    committed = {tasks.quick(number).pk for number in range(10)}
    audit = settled(committed)

    assert wired.proxy.swallowed == 1
    assert audit.executions == {1: 10}
    assert not Attempt.objects.exists()
    assert "its outcome is dropped" not in worker.output()


def test_lost_reply_to_an_enqueue_stores_the_task_once(wired, settled):
    wired.proxy.swallow = (b"INSERT INTO bgtask_task",)

    caller = wired.command("shell", "-c", "from tests.system.faults import tasks; tasks.quick()")

    assert caller.wait(60) != 0
    assert "OperationalError" in caller.output()
    wired.worker()
    assert settled({Task.objects.get().pk}).executions == {1: 1}


def test_slow_and_unreliable_network_loses_no_task(wired, settled):
    wired.proxy.delay, wired.proxy.cuts = 0.1, 0.05
    committed = {tasks.nap(0.05).pk for _ in range(60)}

    wired.worker("--threads=4", **LONG_LEASE)
    audit = settled(committed, timeout=90)

    assert audit.executions == {1: 60}


def test_worker_closes_the_connection_to_a_silent_database(wired, settled):
    worker = wired.worker(**LONG_LEASE)
    settled({tasks.quick().pk})

    wired.proxy.freeze()
    frozen = time.monotonic()
    committed = {tasks.quick(number).pk for number in range(10)}
    eventually(
        lambda: "closing the connection" in worker.output(), timeout=30, explain=worker.output
    )
    noticed = time.monotonic()
    wired.proxy.thaw()
    audit = settled(committed)

    assert noticed - frozen < 20
    assert audit.executions == {1: 11}


@pytest.mark.vendor("postgresql")
def test_single_silent_connection_is_replaced(testbed, settled):
    worker = testbed.worker("--sleep=1", **LONG_LEASE)
    eventually(Worker.objects.alive().exists, timeout=30, explain=worker.output)
    claims = "SELECT pid FROM pg_stat_activity WHERE usename = 'worker' AND query LIKE '%heads%'"
    ((backend,),) = eventually(lambda: testbed.server.execute(claims), explain=worker.output)

    os.kill(backend, signal.SIGSTOP)
    try:
        committed = {tasks.quick(number).pk for number in range(10)}
        audit = settled(committed)
    finally:
        os.kill(backend, signal.SIGCONT)

    assert "closing the connection" in worker.output()
    assert audit.executions == {1: 10}


def test_worker_stops_in_time_while_the_database_is_silent(wired, settled):
    task = tasks.quick()
    worker = wired.worker("--threads=2", GRACE_PERIOD=1, **LONG_LEASE)
    settled({task.pk})

    wired.proxy.freeze()
    worker.send_signal(signal.SIGTERM)

    # GRACE_PERIOD for tasks and for outcomes, 5 seconds more, and 3 to cut a statement short.
    started = time.monotonic()
    worker.wait(timeout=40)
    assert time.monotonic() - started < 15
