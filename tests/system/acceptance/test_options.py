"""What an operator may say to ``process_tasks``."""

from __future__ import annotations

import os
import signal
import time

import pytest

from bgtask.models import Task, Worker
from bgtask.status import Status, WorkerState
from tests import tasks
from tests.factories import TaskFactory
from tests.helpers import eventually
from tests.system.acceptance.conftest import statuses, until_alive

pytestmark = pytest.mark.acceptance


@pytest.mark.sample
def test_stops_by_itself_when_the_duration_is_over(worker):
    child = worker("--duration=1")

    assert child.wait() == 0
    assert Worker.objects.get().state == WorkerState.DEAD


def test_duration_ends_in_the_middle_of_a_backlog_and_leaves_the_rest_untouched(
    worker, execution_log
):
    tasks.nap.enqueue_many([(0.1,)] * 600)

    child = worker("--duration=1")

    assert child.wait() == 0
    left = Task.objects.exclude(status=Status.SUCCESSFUL)
    assert 0 < left.count() < 600
    assert not left.exclude(status=Status.READY, attempts=0).exists()


def test_duration_awaits_the_task_that_runs(worker, gate, until_running):
    task = tasks.wait_for(gate.path)
    child = worker("--duration=1")
    until_running(task, child)

    stopping = Worker.objects.filter(state=WorkerState.STOPPING)
    eventually(stopping.exists, timeout=30, explain=child.output)
    gate.open()

    assert child.wait() == 0
    assert statuses() == {"SUCCESSFUL": 1}


def test_worker_sleeps_only_after_an_empty_poll(worker, execution_log):
    for queue in ("one", "two", "three"):
        tasks.note.using(queue=queue).enqueue_many([(number,) for number in range(20)])

    child = worker("--sleep=3600", "--max-tasks=60")

    assert child.wait(60) == 0
    assert len(execution_log.executions()) == 60


@pytest.mark.vendor("postgresql", "mysql")  # SQLite tells of every write.
def test_worker_polls_after_sleep_without_a_notification(worker, until_ended):
    child = worker("--sleep=0.1")
    until_alive(child)
    end = time.monotonic() + 60

    # At the pace of the default, five seconds, so many would take more than twice as long.
    for _ in range(30):
        TaskFactory()  # A row that was not enqueued, and so not announced.

        until_ended(child, timeout=end - time.monotonic())


def test_worker_serves_only_the_given_queues(worker):
    for queue in ("mail", "reports", "default"):
        tasks.note.using(queue=queue).enqueue_many([(1,), (2,)])

    child = worker("--queue=mail", "--queue", "reports", "--drain")

    assert child.wait() == 0
    assert statuses() == {"SUCCESSFUL": 4, "READY": 2}
    others = Task.objects.filter(queue="default")
    assert set(others.values_list("status", "attempts", "token")) == {(Status.READY, 0, 0)}


def test_threads_run_as_many_tasks_at_once(worker, tmp_path, execution_log):
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    tasks.meet.enqueue_many([(str(meeting), number, 4) for number in range(4)])

    child = worker("--threads=4", "--drain")

    assert child.wait() == 0
    assert {one.start.pid for one in execution_log.executions()} == {child.pid}
    assert len({one.start.thread for one in execution_log.executions()}) == 4


def test_processes_run_beside_each_other(worker, tmp_path, execution_log):
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    tasks.meet.enqueue_many([(str(meeting), number, 2) for number in range(2)])

    child = worker("--processes=2", "--drain")

    assert child.wait(60) == 0
    assert statuses() == {"SUCCESSFUL": 2}
    pids = {one.start.pid for one in execution_log.executions()}
    assert len(pids) == 2
    assert child.pid not in pids


@pytest.mark.sample
def test_drain_stops_when_nothing_is_due(worker):
    tasks.note.enqueue_many([(number,) for number in range(50)])
    later = tasks.note(schedule=3600)

    child = worker("--drain", "--sleep=3600")

    assert child.wait() == 0
    assert statuses() == {"SUCCESSFUL": 50, "SCHEDULED": 1}
    assert Task.objects.scheduled().get() == later


def test_drain_of_some_queues_does_not_wait_for_the_suspects_of_others(worker):
    tasks.note.using(queue="mail")()
    other = tasks.note.using(queue="reports")()
    Task.objects.filter(pk=other.pk).update(crashes=1)

    child = worker("--drain", "--queue=mail")

    assert child.wait() == 0
    assert statuses() == {"SUCCESSFUL": 1, "READY": 1}


def test_max_tasks_limits_the_number_of_tasks(worker):
    tasks.note.enqueue_many([(number,) for number in range(50)])

    child = worker("--max-tasks=3", "--threads=2")

    assert child.wait() == 0
    assert statuses() == {"SUCCESSFUL": 3, "READY": 47}
    assert not Task.objects.ready().exclude(attempts=0, token=0).exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--duration=soon"], "'soon' is not a number of seconds"),
        (["--duration=nan"], "'nan' is not a finite number of seconds"),
        (["--sleep=-1"], "'-1' is below zero"),
        (["--threads=0"], "'0' is not a whole number"),
        (["--processes=many"], "'many' is not a whole number"),
        (["--queue=no spaces"], "'no spaces' is not a valid queue name"),
        (["--log-level=LOUD"], "LOUD"),
        (["--reload", "--processes=2"], "--reload cannot be combined with --processes"),
    ],
)
def test_invalid_option_is_reported_in_one_line(worker, arguments, said):
    child = worker(*arguments)

    assert child.wait() in (1, 2)
    assert said in child.output().splitlines()[-1]
    assert "Traceback" not in child.output()


def test_invalid_setting_is_reported(worker):
    child = worker(LEASE=-1)

    assert child.wait() == 1
    assert "BGTASK['LEASE'] must be a duration" in child.output()
    assert "Traceback" not in child.output()


def test_unwritable_log_file_is_reported_in_one_line(worker, tmp_path):
    place = tmp_path / "missing" / "worker.log"

    child = worker(f"--log-file={place}")

    assert child.wait() == 1
    (line,) = child.output().splitlines()
    assert str(place) in line


def test_reload_waits_for_running_tasks(worker, newcomer, gate, until_running, execution_log):
    task = tasks.wait_for(gate.path)
    child = worker("--reload", env=newcomer.env)
    until_running(task, child)
    stopping = Worker.objects.filter(state=WorkerState.STOPPING)

    def changed():
        newcomer.greets_with("good evening")  # Again, for it may not have been watched yet.
        return stopping.exists()

    eventually(changed, timeout=60, interval=2, explain=child.output)
    gate.open()

    eventually(Task.objects.succeeded().exists, timeout=30, explain=child.output)
    eventually(Worker.objects.filter(state=WorkerState.ALIVE).exists, timeout=30)
    assert len(execution_log.executions(task.pk)) == 1
    assert "has left." in child.output()


def test_ctrl_c_with_reload_waits_for_running_tasks(worker, gate, until_running, execution_log):
    task = tasks.wait_for(gate.path)
    child = worker("--reload")
    until_running(task, child)

    os.killpg(child.pid, signal.SIGINT)  # As a terminal does: to all that it has started.
    eventually(Worker.objects.filter(state=WorkerState.STOPPING).exists, explain=child.output)
    gate.open()

    assert child.wait() == 0
    assert statuses() == {"SUCCESSFUL": 1}
    assert len(execution_log.executions(task.pk)) == 1
    assert "Traceback" not in child.output()


def test_reload_restarts_when_code_has_changed(worker, newcomer):
    child = worker("--reload", "--sleep=0.1", env=newcomer.env)

    def greeting():
        task = Task.objects.enqueue(newcomer.task_name)
        eventually(
            Task.objects.succeeded().filter(pk=task.pk).exists, timeout=60, explain=child.output
        )
        task.refresh_from_db()
        return task.return_value

    assert greeting() == '"hello"'

    def changed_greeting():
        newcomer.greets_with("good evening")  # Again, for it may not have been watched yet.
        return greeting()

    eventually(lambda: changed_greeting() == '"good evening"', timeout=60, interval=2)
