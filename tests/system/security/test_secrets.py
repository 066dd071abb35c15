"""What is told, and to whom: error texts, logs, command lines."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from django.db import connection

from bgtask.models import Attempt, Task, Worker
from bgtask.testing import run_due
from tests import tasks
from tests.factories import TaskFactory
from tests.helpers import eventually
from tests.system.faults.servers import django_settings

SECRET = "hunter2-of-somebody"


@pytest.mark.django_db
@pytest.mark.parametrize(
    "message",
    [
        f"could not connect to postgresql://app:{SECRET}@db/main",
        f"login failed: password='{SECRET}'",
        f'{{"api_key": "{SECRET}"}}',
        f"Authorization: Bearer {SECRET}",
        f'duplicate key\nDETAIL:  Key (email)=({SECRET}) already exists.',
    ],
)  # fmt: skip
def test_secret_in_an_error_is_not_stored(message):
    task = tasks.fail(message)
    Task.objects.filter(pk=task.pk).update(max_attempts=1)

    run_due(raise_errors=False)

    task.refresh_from_db()
    attempt = Attempt.objects.get()
    assert SECRET not in "".join(
        (task.last_error, task.error_message, attempt.message, attempt.traceback)
    )
    assert task.status == "FAILED"


@pytest.mark.django_db
def test_parameters_are_in_no_log_line_and_no_repr(caplog):
    caplog.set_level(logging.DEBUG)
    failed = TaskFactory(task_name="tests.tasks.noop", task_params=f'[[1, "{SECRET}"], {{}}]')
    tasks.add("a", SECRET)

    run_due(raise_errors=False)

    assert "noop" in caplog.text
    assert SECRET not in caplog.text
    assert SECRET not in f"{failed!r} {failed}"


@pytest.mark.django_db
def test_local_variables_are_not_stored():
    TaskFactory(task_name="tests.tasks.noop", task_params=f'[[], {{"unknown": "{SECRET}"}}]')

    run_due(raise_errors=False)

    attempt = Attempt.objects.get()
    assert "unknown" in attempt.message
    assert SECRET not in attempt.message + attempt.traceback


def test_no_command_line_shows_how_to_reach_the_database(testbed):
    database = json.loads(django_settings(testbed.server))
    if connection.vendor != "mysql":  # It refuses a password where none is needed.
        database["PASSWORD"] = SECRET
    supervisor = testbed.worker("--processes=2", env={"BGTASK_TEST_DATABASE": json.dumps(database)})
    eventually(lambda: Worker.objects.alive().count() == 2, timeout=30, explain=testbed.output)

    pids = [supervisor.pid, *Worker.objects.alive().values_list("pid", flat=True)]
    lines = [Path("/proc", str(pid), "cmdline").read_text() for pid in pids]

    assert all("process_tasks" in line for line in lines)
    for key in ("NAME", "USER", "HOST", "PASSWORD"):
        if value := database.get(key):
            assert not any(value in line for line in lines), key
