"""Background functions for the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group

from bgtask import background, current_task
from tests import execution_log


@background
def add(a, b):
    return a + b


@background
def noop(number=0):
    return None


@background
def fail(message="no luck"):
    raise RuntimeError(message)


@background(backoff=0)
def fail_once():
    """Fail at the first attempt, and succeed at the second."""
    if current_task().attempt == 1:
        raise RuntimeError("no luck")


@background
def nap(seconds):
    time.sleep(seconds)


# Functions that write to the execution log, and functions that end or disturb their process


def _noted():
    task = current_task()
    return execution_log.execution(task.id, task.token, task.attempt)


@background
def note(number=0, seconds=0):
    with _noted():
        time.sleep(seconds)
        return number


@background
def wait_for(path):
    """Run until a file with this path exists."""
    with _noted():
        while not Path(path).exists():
            time.sleep(0.01)


@background
def heed():
    """Run until an operator or the worker asks it to stop."""
    with _noted():
        while not current_task().stop_requested:
            current_task().raise_if_cancelled()
            time.sleep(0.01)


@background
def meet(directory, number, party):
    """Run until ``party`` of these tasks run at the same time."""
    with _noted():
        Path(directory, str(number)).touch()
        while len(list(Path(directory).iterdir())) < party:
            time.sleep(0.01)
        return os.getpid()


@background(max_attempts=1)
async def meet_in_the_database(directory, number, party):
    """Do as `meet`, in the thread in which an async task uses the ORM."""
    return await sync_to_async(meet.function)(directory, number, party)


@background(max_attempts=1)
async def count_groups():
    return await Group.objects.acount()


@background
def kill_process(after=0):
    with _noted():
        time.sleep(after)
        os.kill(os.getpid(), signal.SIGKILL)


@background
def leave_orphan():
    """Leave a process that ends soon, and whose parent has ended already."""
    subprocess.run(["sh", "-c", "sleep 0.2 &"], check=True)


@background
def exit_process(status=1):
    with _noted():
        os._exit(status)


@background
def say(text, end="\n"):
    print(text, end=end)  # noqa: T201


@background
def describe_stdout():
    sys.stdout.flush()
    stat = os.fstat(sys.stdout.fileno())
    return {"encoding": sys.stdout.encoding, "tty": sys.stdout.isatty(), "inode": stat.st_ino}
