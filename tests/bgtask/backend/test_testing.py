"""bgtask.testing takes tasks of Django's API as it takes background functions."""

from __future__ import annotations

import pytest

from bgtask.testing import assert_enqueued, enqueued, run_due
from tests.bgtask.backend import jobs
from tests.tasks import noop

pytestmark = pytest.mark.django_db


def test_enqueued_finds_the_tasks_of_both_kinds():
    noop()
    jobs.add.enqueue(1)
    jobs.add.using(priority=3).enqueue(2)

    assert enqueued().count() == 3
    assert enqueued(jobs.add).count() == 2
    assert enqueued(jobs.add.using(priority=3)).count() == 2
    assert enqueued(jobs.add, 1).count() == 1
    assert enqueued(jobs.add.module_path, 1).count() == 1
    assert enqueued(noop).count() == 1


def test_arguments_are_compared_as_they_are_stored():
    jobs.echo.enqueue({1: (2, b"x")})

    assert_enqueued(jobs.echo, {1: (2, b"x")}, times=1)
    assert_enqueued(jobs.echo, {"1": [2, "x"]}, times=1)


def test_a_missing_task_is_named():
    with pytest.raises(AssertionError, match=r"jobs\.add with \[\[3\], \{\}\] waits 0 times"):
        assert_enqueued(jobs.add, 3)


def test_arguments_that_no_task_can_have_are_refused():
    with pytest.raises(TypeError, match="too many positional arguments"):
        enqueued(jobs.add, 1, 2, 3)


def test_run_due_runs_both_kinds():
    noop(priority=1)
    jobs.add.enqueue(1)

    assert [task.status for task in run_due()] == ["SUCCESSFUL", "SUCCESSFUL"]
