"""A person who can write rows can only have registered functions called, and no more."""

from __future__ import annotations

import pytest

from bgtask import registry
from bgtask.models import Task
from bgtask.testing import run_due
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db

NAMES = [
    "os.system",
    "subprocess.run",
    "builtins.eval",
    "tests.system.faults.tasks.os.abort",
    "tests.tasks.os",
    "tests.tasks.noop.__class__",
    "bgtask.models.task.Task.objects.all",
    "__import__('os').abort",
    "x'; DROP TABLE bgtask_task; --",
    "%s %(x)s {0} {x!r}",
    "a" * 255,
    "../../etc/passwd",
]


@pytest.mark.parametrize("name", NAMES)
def test_unregistered_name_calls_nothing(name, tmp_path):
    task = TaskFactory(task_name=name, task_params='[["touch /tmp/never"], {}]')

    run_due(raise_errors=False)

    task.refresh_from_db()
    assert task.status != "SUCCESSFUL"
    assert task.attempts == 0 or task.error_class == "bgtask.exceptions.UnknownTask"
    assert not registry.knows(name)


@pytest.mark.parametrize("name", ["schedule", "priority", "queue", "verbose_name", "self"])
def test_parameter_named_like_an_option_stays_a_parameter(name):
    task = TaskFactory(task_name="tests.tasks.noop", task_params=f'[[], {{"{name}": 1}}]')

    run_due(raise_errors=False)

    task.refresh_from_db()
    assert task.error_class == "TypeError"
    assert (task.queue, task.priority, task.verbose_name) == ("default", 0, "")


@pytest.mark.parametrize(
    "params", ["[[" + "1" * 5_000 + "], {}]", "[[" + "[" * 200 + "]" * 200 + "], {}]",
               '[["' + "x" * 300_000 + '"], {}]', "[[Infinity], {}]",
               "[[], {" + ", ".join(f'"k{number}": 0' for number in range(30_000)) + "}]"],
    ids=["digits", "depth", "size", "infinity", "keys"],
)  # fmt: skip
def test_limits_of_enqueue_apply_when_a_row_is_read(params):
    task = TaskFactory(task_name="tests.tasks.noop", task_params="[[], {}]")
    Task.objects.filter(pk=task.pk).update(task_params=params)

    run_due(raise_errors=False)

    task.refresh_from_db()
    assert (task.status, task.error_class) == ("FAILED", "malformed")
