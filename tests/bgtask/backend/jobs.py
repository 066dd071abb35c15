"""Tasks of Django's API. Workers import this module, because ``tests`` is an app."""

from __future__ import annotations

import os
import signal
from typing import Any

from django.contrib.auth.models import User

from bgtask import GiveUp, current_task
from bgtask.backend import api, task_options
from tests import execution_log

task: Any = api.task

# A test names a file here, to which each process writes the tasks that have finished.
FINISHED = "BGTASK_TEST_FINISHED"


def note_finished(task_result, **kwargs):
    with open(os.environ[FINISHED], "a") as file:
        file.write(f"{task_result.id} {task_result.status} {len(task_result.errors)}\n")


if FINISHED in os.environ:
    api.task_finished.connect(note_finished)


@task
def add(one, two=0):
    return one + two


@task
def fail(message="on purpose"):
    raise ValueError(message)


@task_options(max_attempts=3, backoff=60)
@task
def fail_three_times():
    raise ValueError("again")


@task_options(max_attempts=3, backoff=60)
@task
def succeed_the_third_time():
    if current_task().attempt < 3:
        raise ValueError("not yet")
    return "done"


@task_options(max_attempts=5)
@task
def give_up():
    raise GiveUp("no use")


executed: list[str] = []


@task_options(max_attempts=3, backoff=60)
@task
def return_an_object():
    executed.append("return_an_object")
    return object()


@task
def echo(value):
    return value


@task
async def count_users():
    return await User.objects.acount()


@task(takes_context=True)
def describe(context, name):
    result = context.task_result
    return [name, context.attempt, result.id, result.status, result.task.name]


@task
def stop_if_asked():
    current_task().cancel_requested = True
    current_task().raise_if_cancelled()


@task
def interrupt():
    raise KeyboardInterrupt


@task
def kill_the_worker():
    """Kill the process that runs this task."""
    task = current_task().task
    with execution_log.execution(task.pk, task.token, task.attempts):
        os.kill(os.getpid(), signal.SIGKILL)
