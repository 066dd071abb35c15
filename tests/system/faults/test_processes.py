"""Test matrix rows 4, 8, 11, 12, 14: faults of processes, besides those of the acceptance tests."""

from __future__ import annotations

import signal
from datetime import timedelta

import pytest

from bgtask.models import Task, Worker
from bgtask.status import AttemptOutcome, Status
from tests.helpers import eventually
from tests.processes import descendants
from tests.system.faults import tasks
from tests.system.faults.failpoints import VARIABLE


@pytest.mark.sample
def test_kill_of_a_supervisor_and_all_its_children_loses_no_task(testbed, settled):
    committed = {tasks.nap(0.3).pk for _ in range(20)}
    killed = testbed.worker("--processes=2", "--threads=2")
    eventually(
        lambda: len(testbed.execution_log.executions()) >= 6, timeout=30, explain=killed.output
    )

    for pid in [killed.pid, *descendants(killed.pid)]:
        testbed.kill(pid)
    testbed.worker("--threads=4")
    audit = settled(committed)

    assert audit.statuses == {"SUCCESSFUL": 20}
    assert max(audit.executions) <= 2
    assert max(audit.recovery, default=0) < 30


@pytest.mark.parametrize(
    "signals",
    [
        (signal.SIGTERM,) * 5,
        (signal.SIGINT, signal.SIGTERM),
        (signal.SIGQUIT,),
        pytest.param((signal.SIGHUP,), marks=pytest.mark.thorough),
    ],
    ids=["SIGTERM", "SIGINT-SIGTERM", "SIGQUIT", "SIGHUP"],
)
def test_any_signal_loses_no_task(testbed, settled, signals):
    committed = {tasks.nap(0.5).pk for _ in range(6)}
    child = testbed.worker("--threads=2")
    eventually(
        lambda: len(testbed.execution_log.executions()) >= 3, timeout=30, explain=child.output
    )

    for signum in signals:
        child.send_signal(signum)
    child.wait(timeout=20)
    testbed.worker("--threads=2")
    audit = settled(committed)

    assert "Traceback" not in child.output()
    assert max(audit.executions) <= 2


def test_children_continue_while_their_supervisor_is_stopped(testbed, settled):
    supervisor = testbed.worker("--processes=2")
    eventually(lambda: Worker.objects.alive().count() == 2, timeout=30, explain=supervisor.output)
    supervisor.send_signal(signal.SIGSTOP)

    committed = {tasks.quick(number).pk for number in range(20)}
    audit = settled(committed)

    assert audit.executions == {1: 20}


def test_worker_without_heartbeats_starts_no_task(testbed, settled):
    committed = {tasks.nap(0.1).pk for _ in range(100)}
    child = testbed.worker(env={VARIABLE: "before:beat=broken@3-100000"})

    eventually(
        lambda: (
            Worker.objects.filter(pid=child.pid).exists()
            and not Worker.objects.alive().filter(pid=child.pid).exists()
        ),
        timeout=30,
        explain=child.output,
    )
    testbed.worker("--threads=2")
    audit = settled(committed)

    assert audit.overlaps == 0
    assert audit.executions == {1: 100}


def test_suspect_that_hangs_does_not_keep_its_worker_from_the_others(testbed, settled):
    hanging = tasks.nap(600)
    Task.objects.filter(pk=hanging.pk).update(crashes=1, max_run_time=1, max_attempts=1)
    worker = testbed.worker("--threads=4")
    eventually(Task.objects.failed().exists, timeout=30, explain=worker.output)

    committed = {tasks.quick(number).pk for number in range(20)}
    audit = settled(committed | {hanging.pk})

    assert audit.statuses == {"SUCCESSFUL": 20, "FAILED": 1}


def test_process_in_which_nothing_can_run_is_replaced(testbed, settled):
    task = tasks.hold_interpreter(600)
    supervisor = testbed.worker("--processes=2")
    eventually(
        lambda: testbed.execution_log.executions(task.pk), timeout=30, explain=supervisor.output
    )
    eventually(
        lambda: "sent no heartbeat" in supervisor.output(), timeout=60, explain=supervisor.output
    )
    Task.objects.filter(pk=task.pk).cancel(force=True)

    audit = settled({tasks.quick(number).pk for number in range(20)} | {task.pk})

    assert audit.statuses == {"SUCCESSFUL": 20, "CANCELLED": 1}


def test_process_that_ignores_a_stop_is_killed_and_its_task_is_not_a_suspect(testbed, settled):
    task = tasks.hold_interpreter(600)
    supervisor = testbed.worker("--processes=2", LEASE=3600, HEARTBEAT_INTERVAL=1, GRACE_PERIOD=0.5)
    eventually(
        lambda: testbed.execution_log.executions(task.pk), timeout=30, explain=supervisor.output
    )

    supervisor.send_signal(signal.SIGTERM)

    assert supervisor.wait() not in (0, None)
    task.refresh_from_db()
    assert (task.status, task.attempts, task.crashes) == (Status.READY, 0, 0)
    attempt = task.history.get()
    assert attempt.outcome == AttemptOutcome.INTERRUPTED
    assert "did not stop in time" in attempt.message


def declare_dead_as_soon_as_alive(known=()):
    """Delete the worker's row, as if it were on a second server that has no such row."""
    new = Worker.objects.alive().exclude(pk__in=known).values_list("pk", flat=True).first()
    Worker.objects.filter(pk=new).declare_dead()
    return new


def test_worker_that_is_declared_dead_twice_within_a_lease_leaves_to_be_replaced(testbed):
    """Kind of fault: threads of one process on two servers."""
    worker = testbed.worker(LEASE=60, HEARTBEAT_INTERVAL=0.2)

    first = eventually(declare_dead_as_soon_as_alive, timeout=30, explain=worker.output)
    eventually(lambda: declare_dead_as_soon_as_alive([first]), timeout=30, explain=worker.output)

    assert worker.wait() == 1
    errors = [line for line in worker.output().splitlines() if "ERROR" in line]
    assert len(errors) == 2
    assert "registers again" in errors[0]
    assert "connected to two servers" in errors[1]


def test_worker_that_is_declared_dead_again_after_a_lease_goes_on(testbed, settled):
    worker = testbed.worker(LEASE=2, HEARTBEAT_INTERVAL=0.2)

    first = eventually(declare_dead_as_soon_as_alive, timeout=30, explain=worker.output)
    second = eventually(
        lambda: Worker.objects.alive().exclude(pk=first).first(),
        timeout=30,
        explain=worker.output,
    )
    lease_is_over = Worker.objects.filter(
        pk=second.pk, heartbeat_at__gt=second.started_at + timedelta(seconds=2.5)
    )
    eventually(lease_is_over.exists, timeout=30, explain=worker.output)
    eventually(lambda: declare_dead_as_soon_as_alive([first]), explain=worker.output)
    third = Worker.objects.alive().exclude(pk__in=[first, second.pk])
    eventually(third.exists, timeout=30, explain=worker.output)

    assert settled({tasks.quick().pk}).executions == {1: 1}
    assert worker.is_running()


def test_supervisor_replaces_a_process_that_is_declared_dead_twice_within_a_lease(testbed, settled):
    supervisor = testbed.worker("--processes=2", LEASE=60, HEARTBEAT_INTERVAL=0.2)
    known = []
    while "connected to two servers" not in supervisor.output():
        known.append(
            eventually(
                lambda: declare_dead_as_soon_as_alive(known), timeout=30, explain=supervisor.output
            )
        )
    eventually(lambda: "ended: exit status 1" in supervisor.output(), explain=supervisor.output)
    eventually(lambda: Worker.objects.alive().count() == 2, timeout=30, explain=supervisor.output)

    assert settled({tasks.quick().pk}).executions == {1: 1}
    assert supervisor.is_running()


def test_process_whose_heartbeat_thread_has_died_is_replaced(testbed, settled):
    first = testbed.worker("--processes=2", env={VARIABLE: "before:heartbeat=exit@4"})
    eventually(lambda: "ended: " in first.output(), timeout=60, explain=first.output)

    audit = settled({tasks.quick(number).pk for number in range(20)})

    assert audit.statuses == {"SUCCESSFUL": 20}


@pytest.mark.parametrize(
    ("failpoint", "words"),
    [
        ("before:heartbeat=exit@4", "its Heartbeat has ended"),
        ("before:snapshot=broken@4", "RuntimeError: a bug"),
    ],
    ids=["heartbeat", "main loop"],
)
def test_tasks_of_a_process_with_a_dead_thread_are_lost_and_not_interrupted(
    testbed, failpoint, words
):
    task = tasks.nap(600)
    broken = testbed.worker(
        "--processes=2", "--threads=2", env={VARIABLE: failpoint}, GRACE_PERIOD=0.5
    )
    eventually(task.history.exists, timeout=60, explain=broken.output)

    assert words in broken.output()
    assert task.history.earliest("pk").outcome == AttemptOutcome.LOST


@pytest.mark.parametrize("crash", ["segfault", pytest.param("abort", marks=pytest.mark.thorough)])
def test_task_that_ends_its_process_in_any_way_fails_and_others_succeed(testbed, settled, crash):
    task = tasks.crash(crash)
    committed = {tasks.quick(number).pk for number in range(20)} | {task.pk}
    testbed.worker("--processes=2", "--threads=4")

    audit = settled(committed)

    assert audit.statuses == {"SUCCESSFUL": 20, "FAILED": 1}
    assert Task.objects.failed().get() == task
    assert len(testbed.execution_log.executions(task.pk)) == 3
