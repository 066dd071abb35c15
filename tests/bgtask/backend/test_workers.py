"""Tasks of Django's API in real worker processes."""

from __future__ import annotations

import pytest

from bgtask.backend import api
from bgtask.models import Task
from tests.bgtask.backend import jobs
from tests.factories import TaskFactory
from tests.helpers import eventually

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


class Finished:
    """The tasks for which some process has received task_finished."""

    def __init__(self, path):
        self._path = path
        self.env = {jobs.FINISHED: str(path)}

    def lines(self):
        return self._path.read_text().splitlines() if self._path.exists() else []


@pytest.fixture
def finished(tmp_path):
    return Finished(tmp_path / "finished")


@pytest.mark.sample
def test_a_worker_runs_both_kinds(process_tasks, finished):
    TaskFactory(task_name="tests.tasks.noop")
    result = jobs.describe.using(priority=5).enqueue("by a worker")
    failed = jobs.fail.enqueue()

    worker = process_tasks("--drain", "--threads=2", env=finished.env)

    assert worker.wait() == 0
    result.refresh()
    assert result.return_value == ["by a worker", 1, result.id, "RUNNING", "describe"]
    failed.refresh()
    assert failed.errors[0].exception_class is ValueError
    assert len(result.worker_ids) == 1
    assert Task.objects.succeeded().count() == 2
    assert sorted(finished.lines()) == sorted(
        [f"{result.id} {api.SUCCESSFUL} 0", f"{failed.id} FAILED 1"]
    )
    assert worker.output().count("INFO tests.bgtask.backend.jobs.fail [") == 1
    assert "ERROR" not in worker.output()


@pytest.mark.sample
def test_a_task_that_kills_its_worker_is_given_its_attempt_back_once(
    process_tasks, execution_log, finished
):
    """Kind of fault: a task stays RUNNING after kill -9."""
    result = jobs.kill_the_worker.enqueue()

    worker = process_tasks("--processes=2", env=finished.env)

    row = Task.objects.get()

    def has_ended():
        row.refresh_from_db()
        return row.is_finished

    eventually(has_ended, timeout=60, explain=worker.output)
    result.refresh()
    assert result.status == api.TaskResultStatus.FAILED
    assert len(execution_log.executions()) == 2
    assert [error.exception_class.__name__ for error in result.errors] == ["WorkerLost"] * 2
    assert result.attempts == row.attempts == 1
    assert result.worker_ids == [row.last_worker]
    assert eventually(finished.lines) == [f"{result.id} FAILED 2"]


def test_a_task_of_an_unknown_function_waits_for_the_code(process_tasks):
    result = jobs.add.enqueue(1, two=2)
    Task.objects.update(task_name="tests.bgtask.backend.jobs.later")

    assert process_tasks("--drain").wait() == 0

    row = Task.objects.get()
    assert (row.status, row.held_for) == ("HELD", "unknown")
    Task.objects.update(task_name=jobs.add.module_path)
    assert process_tasks("--drain").wait() == 0
    result.refresh()
    assert result.return_value == 3
