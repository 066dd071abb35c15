"""
Matrix rows 16–20, 22, 25–29, 33: what befalls the database.

The module is long because each fault of a database is one row of the fault matrix.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.db import Error, connection

from bgtask.models import Attempt, Task, Worker
from tests.helpers import eventually
from tests.processes import descendants
from tests.system.faults import tasks
from tests.system.faults.failpoints import VARIABLE
from tests.system.faults.servers import django_settings

LONG_LEASE = {"LEASE": 30, "HEARTBEAT_INTERVAL": 1}


@pytest.mark.sample
def test_restart_of_the_machine_loses_no_task(testbed, settled):
    committed = {tasks.nap(0.3).pk for _ in range(20)}
    before = testbed.worker("--processes=2", "--threads=2")
    eventually(
        lambda: len(testbed.execution_log.executions()) >= 6, timeout=30, explain=before.output
    )

    testbed.server.crash()
    for pid in [before.pid, *descendants(before.pid)]:
        testbed.kill(pid)
    connection.close()
    testbed.server.start()
    testbed.worker("--threads=4")
    audit = settled(committed)

    assert audit.statuses == {"SUCCESSFUL": 20}
    assert max(audit.executions) <= 2


@pytest.mark.parametrize("how", ["restart", "crash"])
def test_restart_of_the_server_fails_no_task_and_repeats_none(served, settled, how):
    committed = {tasks.nap(0.1).pk for _ in range(80)}
    worker = served.worker("--threads=2", **LONG_LEASE)
    eventually(
        lambda: len(served.execution_log.executions()) >= 10, timeout=30, explain=worker.output
    )

    if how == "crash":
        served.server.crash()
        served.server.start()
    else:
        served.server.restart()
    connection.close()
    up = time.monotonic()
    audit = settled(committed)

    assert audit.executions == {1: 80}
    assert not Attempt.objects.exists()
    later = [one.start.monotonic for one in served.execution_log.executions()]
    assert min(start for start in later if start > up) - up < 10


@pytest.mark.sample
def test_idle_worker_survives_a_restart_of_the_server(served, settled):
    worker = served.worker()
    eventually(Worker.objects.alive().exists, timeout=30, explain=worker.output)

    served.server.restart()
    connection.close()
    audit = settled({tasks.quick().pk})

    assert audit.executions == {1: 1}
    assert worker.is_running()


def test_outage_longer_than_the_lease_loses_no_task(served, settled):
    committed = {tasks.nap(0.05).pk for _ in range(100)}
    workers = [served.worker("--threads=2") for _ in range(2)]
    eventually(
        lambda: len(served.execution_log.executions()) >= 20, timeout=30, explain=served.output
    )

    served.server.stop()
    down = time.monotonic()
    time.sleep(5)  # The lease is 3 seconds.
    started_late = [
        one
        for one in served.execution_log.executions()
        if one.start.monotonic > down + 3 * 0.75 + 0.3
    ]
    served.server.start()
    connection.close()
    audit = settled(committed)

    assert not started_late
    assert audit.statuses == {"SUCCESSFUL": 100}
    assert max(audit.executions) <= 2
    assert audit.overlaps == 0
    assert all(worker.is_running() for worker in workers)


def test_task_that_cannot_be_set_aside_does_not_block_others(testbed, settled):
    tasks.quick.enqueue_many((number,) for number in range(10))
    Task.objects.enqueue("nobody.knows_it")
    tasks.quick.enqueue_many((number,) for number in range(10))
    worker = testbed.worker(
        "--threads=16",
        env={VARIABLE: "before:set_aside=disk_full@1-2"},
        LEASE=600,
        HEARTBEAT_INTERVAL=1,
    )

    eventually(Task.objects.held().exists, timeout=60, explain=worker.output)
    assert "No space left" in worker.output()
    Task.objects.held().cancel()
    audit = settled()

    assert audit.executions == {0: 1, 1: 20}


def test_unwritten_outcomes_make_the_worker_exit_with_an_error(testbed, settled):
    committed = {tasks.quick().pk}
    worker = testbed.worker(env={VARIABLE: "before:finish=disk_full@1-100000"}, GRACE_PERIOD=1)
    eventually(testbed.execution_log.executions, timeout=30, explain=worker.output)

    worker.send_signal(signal.SIGTERM)

    assert worker.wait() == 1
    assert "rescued or cancelled while it ran" not in worker.output()
    testbed.worker()
    assert settled(committed).executions == {2: 1}


@pytest.mark.vendor("postgresql")
def test_a_pool_of_the_drivers_does_not_run_out_of_connections(testbed, settled):
    options = {**testbed.server.settings.get("OPTIONS", {}), "pool": True}
    env = {"BGTASK_TEST_DATABASE": django_settings(testbed.server, OPTIONS=options)}
    committed = {tasks.query().pk for _ in range(40)}

    for arguments in (["--threads=6"], ["--processes=2", "--threads=6"]):
        testbed.worker(*arguments, env=env, **LONG_LEASE)
    audit = settled(committed)

    assert audit.statuses == {"SUCCESSFUL": 40}


@pytest.mark.vendor("postgresql")
def test_silent_connection_of_the_completer_is_replaced(testbed, settled):
    worker = testbed.worker(LEASE=12, HEARTBEAT_INTERVAL=1)
    settled({tasks.quick().pk})
    writes = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%UPDATE bgtask_task AS t SET%'"
    ((backend, *_),) = testbed.server.execute(f"{writes} AND usename = 'worker'")

    os.kill(backend, signal.SIGSTOP)
    try:
        audit = settled({tasks.quick(number).pk for number in range(10)})
    finally:
        os.kill(backend, signal.SIGCONT)

    assert "closing the connection" in worker.output()
    assert audit.executions == {1: 11}


def test_frequently_cut_connections_lose_no_task(served, settled):
    committed = {tasks.nap(0.05).pk for _ in range(60)}
    served.worker("--threads=2", **LONG_LEASE)
    over = threading.Event()

    def cut():
        while not over.wait(0.05):
            served.server.cut_all()

    cutter = threading.Thread(target=cut)
    cutter.start()
    time.sleep(4)
    over.set()
    cutter.join()
    connection.close()
    audit = settled(committed)

    assert audit.statuses == {"SUCCESSFUL": 60}
    assert max(audit.executions) <= 2


@pytest.mark.sample
def test_cut_connection_fails_only_the_task_that_uses_it(served, settled):
    task = tasks.wait_in_database(60)
    worker = served.worker(**LONG_LEASE)
    eventually(lambda: served.execution_log.executions(task.pk), timeout=30, explain=worker.output)

    victim = eventually(lambda: served.server.connection_of("sleep"), timeout=20)
    served.server.cut(victim)
    eventually(lambda: Attempt.objects.filter(task=task).exists(), timeout=20)
    Task.objects.filter(pk=task.pk).cancel()
    after = tasks.query()
    settled()

    attempt = Attempt.objects.get(task=task)
    assert (attempt.outcome, attempt.number) == ("failed", 1)
    assert "OperationalError" in attempt.error_class
    after.refresh_from_db()
    assert (after.status, after.attempts) == ("SUCCESSFUL", 1)


def test_read_only_period_loses_no_task(served, settled):
    committed = {tasks.nap(0.05).pk for _ in range(60)}
    worker = served.worker("--threads=2", **LONG_LEASE)
    eventually(
        lambda: len(served.execution_log.executions()) >= 10, timeout=30, explain=worker.output
    )

    with served.server.read_only():
        time.sleep(3)
    connection.close()
    audit = settled(committed)

    assert audit.executions == {1: 60}
    assert set(Task.objects.values_list("attempts", flat=True)) == {1}


def test_refused_connections_lose_no_task(served, settled):
    committed = {tasks.nap(0.05).pk for _ in range(60)}
    worker = served.worker("--threads=2", **LONG_LEASE)
    eventually(
        lambda: len(served.execution_log.executions()) >= 10, timeout=30, explain=worker.output
    )

    with served.server.crowded():
        time.sleep(3)
    connection.close()
    audit = settled(committed)

    assert audit.executions == {1: 60}


@pytest.mark.parametrize(
    "place",
    ["claim", pytest.param("finish", marks=pytest.mark.sample), "beat"]
    + [pytest.param(place, marks=pytest.mark.thorough) for place in ("snapshot", "promote")],
)
@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("disk_full", "No space left"),
        pytest.param("deadlock", "Deadlock found", marks=pytest.mark.thorough),
    ],
)
def test_error_of_the_database_is_waited_out(testbed, settled, place, error, words):
    committed = {tasks.quick(number).pk for number in range(10)}
    worker = testbed.worker(env={VARIABLE: f"before:{place}={error}@1-4"}, **LONG_LEASE)

    def was_met():
        committed.add(tasks.quick(schedule=0.1).pk)  # So that there is something to do till then.
        return words in worker.output()

    eventually(was_met, timeout=60, interval=0.1, explain=worker.output)
    audit = settled(committed)

    assert audit.executions == {1: len(committed)}
    assert not Attempt.objects.exists()
    assert worker.output().count("WARNING") < 8


def test_full_disk_costs_neither_time_nor_a_long_log(testbed, settled):
    task = tasks.quick()
    worker = testbed.worker(env={VARIABLE: "before:finish=disk_full@1-6"}, **LONG_LEASE)
    eventually(lambda: testbed.execution_log.executions(), timeout=30, explain=worker.output)

    settled({task.pk}, timeout=90)

    warnings = [line for line in worker.output().splitlines() if "WARNING" in line]
    assert 1 <= len(warnings) <= 3
    assert _cpu_seconds(worker.pid) < 5


@pytest.mark.vendor("sqlite")
def test_full_disk_is_reported_to_the_caller(testbed):
    with connection.cursor() as cursor:
        cursor.execute("VACUUM")  # Pages that are free would be room.
        cursor.execute("PRAGMA page_count")
        (pages,) = cursor.fetchone()
        cursor.execute(f"PRAGMA max_page_count = {pages + 2}")

    with pytest.raises(Error, match="full"):
        tasks.quick.enqueue_many([(number,) for number in range(5_000)])

    connection.close()
    assert not Task.objects.exists()


@pytest.mark.sample
@pytest.mark.vendor("sqlite")
def test_write_lock_of_others_is_waited_for(testbed, settled):
    committed = {tasks.nap(0.02).pk for _ in range(60)}
    workers = [testbed.worker(**LONG_LEASE) for _ in range(4)]
    eventually(lambda: len(testbed.execution_log.executions()) >= 5, timeout=40)

    with testbed.server.write_lock():
        time.sleep(6)
    audit = settled(committed)

    assert audit.executions == {1: 60}
    assert not Attempt.objects.exists()
    assert not any("locked" in worker.output() for worker in workers)


@pytest.mark.vendor("sqlite")
def test_read_only_database_is_reported_and_no_task_runs(testbed):
    tasks.quick()
    name = f"file:{testbed.server.settings['NAME']}?mode=ro"
    options = {"init_command": "", "timeout": 5}
    env = {"BGTASK_TEST_DATABASE": django_settings(testbed.server, NAME=name, OPTIONS=options)}

    worker = testbed.worker(env=env)

    eventually(lambda: "readonly database" in worker.output(), timeout=30, explain=worker.output)
    assert not testbed.execution_log.executions()
    assert Task.objects.get().status == "READY"


@pytest.mark.vendor("postgresql", "mysql")
def test_stricter_isolation_only_repeats_statements(testbed, settled):
    committed = {tasks.nap(0.01).pk for _ in range(200)}
    level = "serializable"
    if testbed.server.vendor == "postgresql":
        from django.db.backends.postgresql.psycopg_any import IsolationLevel

        level = IsolationLevel.SERIALIZABLE
    options = {**testbed.server.settings.get("OPTIONS", {}), "isolation_level": level}
    env = {"BGTASK_TEST_DATABASE": django_settings(testbed.server, OPTIONS=options)}

    for _ in range(2):
        testbed.worker("--threads=3", env=env, **LONG_LEASE)
    audit = settled(committed)

    assert audit.executions == {1: 200}
    assert not Attempt.objects.exists()


@pytest.mark.parametrize("outcome", ["SUCCESSFUL", "FAILED"])
def test_flush_aborted_by_a_deadlock_is_repeated(served, settled, tmp_path, outcome):
    gates = [tmp_path / str(number) for number in range(8)]
    waiting = tasks.wait_for.using(max_attempts=1)
    ids = [waiting(str(gate), fail=outcome == "FAILED").pk for gate in gates]
    before, first, second, third, *_ = ids
    worker = served.worker("--threads=4", LEASE=600, HEARTBEAT_INTERVAL=1)
    _await_executions(4, served)

    with _session() as delaying, _session() as between, _session() as opponent:
        # All three in one flush: they end, each making room for another, while the one before
        # them is being written.
        _lock(delaying, before)
        gates[0].touch()
        _await_lock_waits(1, served)
        for number, gate in enumerate(gates[1:4], start=6):
            gate.touch()
            _await_executions(number, served)
        # It has the first and waits for the second; the opponent has the third and waits for the
        # first; and then it waits for the third.
        _lock(between, second)
        _make_heavier(opponent)
        _lock(opponent, third)
        delaying.rollback()
        eventually(lambda: Task.objects.get(pk=before).status == outcome, explain=worker.output)
        _await_lock_waits(1, served)
        with ThreadPoolExecutor() as pool:
            locked = pool.submit(_lock, opponent, first)
            _await_lock_waits(2, served)
            between.rollback()
            locked.result(timeout=60)

        flushed = [first, second, third]
        assert Task.objects.running().filter(pk__in=flushed).count() == 3
        eventually(lambda: "deadlock" in worker.output().lower(), explain=worker.output)
    for gate in gates:
        gate.touch()
    audit = settled(set(ids))

    assert audit.statuses == {outcome: 8}
    assert audit.executions == {1: 8}
    history = Attempt.objects.values_list("task", flat=True).order_by("task")
    assert list(history) == (ids if outcome == "FAILED" else [])
    assert worker.is_running()


@contextlib.contextmanager
def _session():
    """Open a transaction of another client."""
    session = connection.copy()
    session.inc_thread_sharing()
    session.set_autocommit(False)
    try:
        yield session
    finally:
        session.close()


def _lock(session, pk):
    with session.cursor() as cursor:
        cursor.execute("SELECT id FROM bgtask_task WHERE id = %s FOR UPDATE", [pk])
        assert cursor.fetchone() == (pk,)


def _make_heavier(session):
    """Let the other one be chosen: who looks for deadlocks first, or who has written less."""
    with session.cursor() as cursor:
        if session.vendor == "postgresql":
            cursor.execute("SET deadlock_timeout = '1h'")
        else:
            cursor.execute("CREATE TEMPORARY TABLE ballast (number int) ENGINE=InnoDB")
            cursor.executemany("INSERT INTO ballast VALUES (%s)", [(n,) for n in range(100)])


def _await_lock_waits(count, testbed):
    query = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'transactionid'",
        "mysql": "SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'",
    }[testbed.server.vendor]
    eventually(
        lambda: int(testbed.server.execute(query)[0][-1]) == count,
        timeout=30,
        explain=testbed.output,
    )


def _await_executions(count, testbed):
    eventually(
        lambda: len(testbed.execution_log.executions()) == count, timeout=30, explain=testbed.output
    )


def test_rebuild_of_the_table_loses_no_task(testbed, settled):
    committed = {tasks.nap(0.02).pk for _ in range(300)}
    for _ in range(2):
        testbed.worker("--threads=2", **LONG_LEASE)
    eventually(lambda: len(testbed.execution_log.executions()) >= 20, timeout=40)

    statements = {
        "sqlite": ["REINDEX bgtask_task", "VACUUM"],
        "postgresql": ["REINDEX TABLE CONCURRENTLY bgtask_task", "VACUUM FULL bgtask_task"],
        "mysql": ["OPTIMIZE TABLE bgtask_task", "ALTER TABLE bgtask_task FORCE"],
    }[testbed.server.vendor]
    for statement in statements:
        with connection.cursor() as cursor:
            cursor.execute(statement)
    audit = settled(committed)

    assert audit.executions == {1: 300}


def test_additional_column_of_a_newer_schema_is_ignored(testbed, settled):
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE bgtask_task ADD COLUMN newer integer NULL")
    try:
        committed = {tasks.quick(number).pk for number in range(50)}
        committed |= {tasks.hopeless().pk}
        testbed.worker("--threads=2")

        audit = settled(committed)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE bgtask_task DROP COLUMN newer")

    assert audit.statuses == {"SUCCESSFUL": 50, "FAILED": 1}


def test_old_snapshot_slows_claims_no_more_than_a_little(testbed, settled):
    tasks.quick.enqueue_many([(number,) for number in range(3_000)])

    with testbed.server.snapshot():
        testbed.worker("--threads=2")
        audit = settled(timeout=90)
        starts = sorted(one.start.monotonic for one in testbed.execution_log.executions())

    assert audit.executions == {1: 3_000}
    first, last = starts[1_000] - starts[100], starts[2_900] - starts[2_000]
    assert last < 4 * first + 1


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100
