"""A worker as the first process of a container.

For such a process signals have no default action, and it has to reap orphans itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from bgtask.models import Task, Worker
from tests import tasks
from tests.helpers import eventually

pytestmark = pytest.mark.acceptance

UNSHARE = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")


@pytest.fixture(scope="session", autouse=True)
def may_unshare():
    try:
        subprocess.run([*UNSHARE, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"Process ids of its own cannot be had here: {error}")


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def first_process(process_tasks):
    """Return a function: it starts a worker and returns the child and its first process's id."""

    def start(*args):
        child = process_tasks(*args, within=UNSHARE)
        eventually(Worker.objects.alive().exists, timeout=30, explain=child.output)
        (pid,) = children_of(child.pid)
        return child, pid

    return start


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.sample), 2])
def test_worker_as_first_process_of_a_container_stops_on_sigterm(
    first_process, until_ended, processes
):
    child, pid = first_process(f"--processes={processes}")
    tasks.add(1, 2)
    until_ended(child)

    os.kill(pid, signal.SIGTERM)

    assert child.wait() == 0
    assert not Worker.objects.living().exists()


def test_orphaned_processes_of_tasks_are_reaped(first_process, until_ended):
    child, pid = first_process("--processes=2")
    for _ in range(5):
        tasks.leave_orphan()

    until_ended(child)

    assert Task.objects.succeeded().count() == 5
    # A zombie would remain a child, because no other process may reap it.
    eventually(lambda: len(children_of(pid)) == 2, timeout=30, explain=child.output)
