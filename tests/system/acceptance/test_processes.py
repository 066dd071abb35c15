"""
Test several worker processes and their supervisor.

The module is long because each way in which a process can end is one case of the supervisor.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from textwrap import indent

import pytest

from bgtask.models import Attempt, Task, TaskStats, Worker
from bgtask.status import AttemptOutcome, Status, WorkerState
from tests import tasks
from tests.helpers import eventually
from tests.processes import ROOT, descendants, is_running, open_files
from tests.system.acceptance.conftest import statuses

pytestmark = pytest.mark.acceptance


def running_pid(execution_log, task):
    """Return the id of the process in which this task was started last."""
    return execution_log.executions(task.pk)[-1].start.pid


class Release:
    """An app of the project that its supervisor can import at once, and their processes cannot."""

    def __init__(self, path):
        self._tasks = path / "release" / "tasks.py"
        self._tasks.parent.mkdir(parents=True)
        (path / "release" / "__init__.py").touch()
        self._notes = path / "starts"
        self.env = {
            "BGTASK_TEST_APPS": "release",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(path)]),
            "PYTHONDONTWRITEBYTECODE": "1",  # Or a second version of its module may be missed.
        }

    def cannot_be_imported(self):
        self._write("raise ImportError('a broken release')")

    def waits_for(self, gate):
        self._write(f"while not os.path.exists({gate.path!r}):\n    time.sleep(0.01)")

    def is_mended(self):
        self._tasks.write_text("")

    def starts(self):
        """When each of the processes came to import it, by the clock that all of them share."""
        notes = self._notes.read_text() if self._notes.exists() else ""
        return [float(note) for note in notes.splitlines()]

    def _write(self, trouble):
        self._tasks.write_text(
            "import os, sys, time\n"
            "if any(word.startswith('--supervised') for word in sys.argv):\n"
            f"    with open({str(self._notes)!r}, 'a') as notes:\n"
            "        print(time.monotonic(), file=notes)\n" + indent(trouble, "    ")
        )


@pytest.fixture
def release(tmp_path):
    return Release(tmp_path / "apps")


@pytest.mark.sample
def test_killed_process_is_replaced_and_its_task_rescued_at_once(
    worker, gate, until_running, until_ended, execution_log
):
    task = tasks.wait_for(gate.path)
    supervisor = worker("--processes=2", LEASE=3600, HEARTBEAT_INTERVAL=1)
    until_running(task, supervisor)
    killed = running_pid(execution_log, task)

    os.kill(killed, signal.SIGKILL)
    gate.open()
    until_ended(supervisor)

    assert [one.start.pid == killed for one in execution_log.executions(task.pk)] == [True, False]
    lost = Attempt.objects.get()
    assert lost.outcome == AttemptOutcome.LOST
    assert "killed by signal 9 SIGKILL" in lost.message
    eventually(lambda: TaskStats.objects.filter(retried=1).exists(), timeout=30)
    living = Worker.objects.alive().exclude(pid=killed)
    eventually(lambda: living.count() == 2, timeout=30, explain=supervisor.output)


@pytest.mark.parametrize("name", ["bgtask_worker", "process_tasks"])
def test_a_supervisor_starts_its_children_by_the_name_it_was_started_by(command, name):
    """Kind of fault: under its second name a command runs another app's command."""
    supervisor = command(name, "--processes=2")
    alive = Worker.objects.alive()
    eventually(lambda: alive.count() == 2, timeout=30, explain=supervisor.output)

    lines = [
        Path("/proc", str(pid), "cmdline").read_text()
        for pid in alive.values_list("pid", flat=True)
    ]

    assert [name in line.split("\0") for line in lines] == [True, True]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGHUP, signal.SIGQUIT])
def test_processes_stop_by_themselves_when_their_supervisor_is_killed(
    worker, gate, until_running, execution_log, signum
):
    task = tasks.wait_for(gate.path)
    supervisor = worker("--processes=2")
    until_running(task, supervisor)
    eventually(lambda: Worker.objects.alive().count() == 2, timeout=30, explain=supervisor.output)
    pids = list(Worker.objects.values_list("pid", flat=True))

    supervisor.send_signal(signum)
    eventually(
        Worker.objects.exclude(state=WorkerState.ALIVE)
        .filter(pid=running_pid(execution_log, task))
        .exists,
        timeout=30,
    )
    gate.open()

    eventually(lambda: not any(map(is_running, pids)), timeout=30)
    assert statuses() == {"SUCCESSFUL": 1}
    assert set(Worker.objects.values_list("state", flat=True)) == {WorkerState.DEAD}
    assert not Attempt.objects.exists()
    assert supervisor.wait() == -signum
    assert "Traceback" not in supervisor.output()


@pytest.mark.parametrize(
    "signum", [pytest.param(signal.SIGTERM, marks=pytest.mark.sample), signal.SIGINT]
)
def test_all_processes_finish_their_task_and_stop_on_request(
    worker, gate, until_running, execution_log, signum
):
    running = [tasks.wait_for(gate.path) for _ in range(2)]
    supervisor = worker("--processes=2")
    for task in running:
        until_running(task, supervisor)
    pids = {running_pid(execution_log, task) for task in running}

    supervisor.send_signal(signum)
    stopping = Worker.objects.filter(state=WorkerState.STOPPING)
    eventually(lambda: stopping.count() == 2, timeout=30, explain=supervisor.output)
    gate.open()

    assert supervisor.wait() == 0
    assert len(pids) == 2
    assert not any(map(is_running, pids))
    assert statuses() == {"SUCCESSFUL": 2}
    assert set(Worker.objects.values_list("state", flat=True)) == {WorkerState.DEAD}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_processes_at_once_and_their_task_is_rescued(
    worker, gate, until_running, execution_log, signum
):
    task = tasks.wait_for(gate.path)
    supervisor = worker("--processes=2", LEASE=3600, HEARTBEAT_INTERVAL=1, GRACE_PERIOD=3600)
    until_running(task, supervisor)
    pid = running_pid(execution_log, task)
    supervisor.send_signal(signum)
    eventually(
        Worker.objects.filter(state=WorkerState.STOPPING).exists,
        timeout=30,
        explain=supervisor.output,
    )

    supervisor.send_signal(signum)

    assert supervisor.wait() not in (0, None)
    assert not is_running(pid)
    task.refresh_from_db()
    assert (task.status, task.attempts, task.crashes) == (Status.READY, 0, 0)
    assert Attempt.objects.get().outcome == AttemptOutcome.INTERRUPTED
    assert "Traceback" not in supervisor.output()


def until_stopped(supervisor, processes):
    """Until it has closed the standard input of each."""
    inputs = {os.readlink(f"/proc/{pid}/fd/0") for pid in processes}
    eventually(lambda: not inputs & set(open_files(supervisor.pid)), explain=supervisor.output)


def test_processes_stopped_while_starting_leave_cleanly(worker, gate, release, execution_log):
    tasks.note()
    release.waits_for(gate)
    supervisor = worker("--processes=2", env=release.env, GRACE_PERIOD=3600)
    eventually(lambda: len(release.starts()) == 2, timeout=30, explain=supervisor.output)
    starting = descendants(supervisor.pid)

    supervisor.send_signal(signal.SIGTERM)
    until_stopped(supervisor, starting)
    gate.open()

    assert supervisor.wait() == 0
    assert "Traceback" not in supervisor.output()
    assert not any(map(is_running, starting))
    assert len(release.starts()) == len(starting) == 2
    assert not Worker.objects.living().exists()
    assert statuses() == ({"SUCCESSFUL": 1} if execution_log.executions() else {"READY": 1})


def test_second_signal_ends_also_processes_that_are_about_to_start(worker, gate, release):
    release.waits_for(gate)
    supervisor = worker("--processes=2", env=release.env, GRACE_PERIOD=3600)
    eventually(lambda: len(release.starts()) == 2, timeout=30, explain=supervisor.output)
    starting = descendants(supervisor.pid)

    supervisor.send_signal(signal.SIGINT)
    until_stopped(supervisor, starting)
    supervisor.send_signal(signal.SIGINT)

    assert supervisor.wait() not in (0, None)
    assert "Traceback" not in supervisor.output()
    assert not any(map(is_running, starting))
    assert len(release.starts()) == len(starting) == 2


def test_processes_that_cannot_start_are_retried_after_growing_waits_until_the_stop(
    worker, release
):
    release.cannot_be_imported()
    supervisor = worker("--processes=2", env=release.env)

    eventually(
        lambda: supervisor.output().count("ended: exit status 1.") == 6,
        timeout=60,
        explain=supervisor.output,
    )
    supervisor.send_signal(signal.SIGTERM)

    assert supervisor.wait() == 0
    starts = release.starts()
    assert len(starts) == 6
    # There are two processes. At the third start one has been restarted, at the fifth one has
    # been restarted twice.
    assert starts[2] - starts[0] >= 1
    assert starts[4] - starts[0] >= 1 + 2
    assert not Worker.objects.exists()


def test_processes_start_by_themselves_once_they_can(worker, release):
    release.cannot_be_imported()
    supervisor = worker("--processes=2", env=release.env)
    eventually(lambda: len(release.starts()) >= 2, timeout=30, explain=supervisor.output)

    release.is_mended()

    alive = Worker.objects.alive()
    eventually(lambda: alive.count() == 2, timeout=30, explain=supervisor.output)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait() == 0


def test_task_that_outlasts_the_grace_period_is_rescued_at_once_and_is_not_a_suspect(
    worker, gate, until_running
):
    task = tasks.wait_for(gate.path)
    supervisor = worker("--processes=2", LEASE=3600, HEARTBEAT_INTERVAL=1, GRACE_PERIOD=0.5)
    until_running(task, supervisor)

    supervisor.send_signal(signal.SIGTERM)

    assert supervisor.wait() not in (0, None)
    task.refresh_from_db()
    assert (task.status, task.attempts, task.crashes) == (Status.READY, 0, 0)
    attempt = Attempt.objects.get()
    assert attempt.outcome == AttemptOutcome.INTERRUPTED
    assert attempt.worker in attempt.message
    assert set(Worker.objects.values_list("state", flat=True)) == {WorkerState.DEAD}


def test_process_that_hangs_is_replaced(worker, gate, until_running, until_ended, execution_log):
    task = tasks.wait_for(gate.path)
    supervisor = worker("--processes=2")
    until_running(task, supervisor)
    hanging = running_pid(execution_log, task)

    os.kill(hanging, signal.SIGSTOP)
    eventually(lambda: not is_running(hanging), timeout=60, explain=supervisor.output)
    gate.open()
    until_ended(supervisor)

    assert statuses() == {"SUCCESSFUL": 1}
    living = Worker.objects.alive().exclude(pid=hanging)
    eventually(lambda: living.count() == 2, timeout=30, explain=supervisor.output)


def test_process_that_has_done_its_max_tasks_is_replaced(worker, until_ended, execution_log):
    tasks.note.enqueue_many([(number,) for number in range(10)])

    until_ended(worker("--processes=2", "--max-tasks=3"), timeout=90)

    executions = execution_log.executions()
    by_pid = [one.start.pid for one in executions]
    assert len(executions) == 10
    assert max(by_pid.count(pid) for pid in by_pid) == 3


def test_replaced_processes_drain_the_queue_to_its_end(worker):
    tasks.note.enqueue_many([(number,) for number in range(20)])

    supervisor = worker("--processes=2", "--max-tasks=3", "--drain")

    assert supervisor.wait(90) == 0
    assert statuses() == {"SUCCESSFUL": 20}


def test_process_ended_by_a_task_with_exit_status_0_is_replaced_and_the_task_rescued(
    worker, execution_log
):
    task = tasks.exit_process(0)

    supervisor = worker("--processes=2", "--drain", LEASE=3600, HEARTBEAT_INTERVAL=1)

    assert supervisor.wait(90) == 0
    task.refresh_from_db()
    assert (task.status, task.crashes) == (Status.FAILED, 3)
    assert supervisor.output().count("ended: exit status 0.") == 3
    assert [one.outcome for one in Attempt.objects.all()] == [AttemptOutcome.LOST] * 3
    assert {attempt.message for attempt in Attempt.objects.all()} == {
        f"The task was lost with its worker {attempt.worker}: exit status 0."
        for attempt in Attempt.objects.all()
    }
    assert set(Worker.objects.values_list("state", flat=True)) == {WorkerState.DEAD}


@pytest.mark.parametrize("option", ["--process=2", "--proc=2", "--dur=1", "--dra"])
def test_abbreviated_options_are_refused(worker, option):
    child = worker(option)

    assert child.wait() != 0
    assert option in child.output()


def test_all_processes_stop_at_the_end_of_the_duration(worker):
    supervisor = worker("--processes=2", "--duration=1")

    assert supervisor.wait(60) == 0
    assert list(Worker.objects.values_list("state", flat=True)) == [WorkerState.DEAD] * 2


def test_process_with_a_stuck_thread_is_replaced_and_the_task_tried_again(
    worker, gate, until_running, until_ended, execution_log
):
    task = tasks.wait_for(gate.path)
    supervisor = worker("--processes=2", MAX_RUN_TIME=1, GRACE_PERIOD=1)
    until_running(task, supervisor)
    stuck = running_pid(execution_log, task)

    eventually(lambda: not is_running(stuck), timeout=60, explain=supervisor.output)
    gate.open()
    eventually(Task.objects.retrying().run_now, timeout=30, explain=supervisor.output)
    until_ended(supervisor)

    task.refresh_from_db()
    assert (task.status, task.attempts, task.crashes) == (Status.SUCCESSFUL, 2, 0)
    assert Attempt.objects.get().outcome == AttemptOutcome.TIMED_OUT
