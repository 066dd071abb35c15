"""What cuts the sleep of an idle worker short: ``--sleep=3600`` would be over too late."""

from __future__ import annotations

import pytest

from bgtask.models import Task
from tests import tasks
from tests.helpers import eventually
from tests.system.acceptance.conftest import until_alive

pytestmark = pytest.mark.acceptance
wakes = pytest.mark.vendor("postgresql", "sqlite")


@pytest.fixture
def sleeper(worker, until_ended):
    """Start a worker that has nothing to do."""
    child = worker("--sleep=3600", LEASE=60, HEARTBEAT_INTERVAL=10)
    until_alive(child)
    return child


@pytest.mark.sample
@wakes
def test_worker_wakes_up_for_a_new_task(sleeper, until_ended):
    for _ in range(5):  # Each finds it asleep, but perhaps the first.
        tasks.note()

        until_ended(sleeper)


@wakes
def test_worker_wakes_up_for_many_new_tasks(sleeper, until_ended):
    for _ in range(3):
        tasks.note.enqueue_many([(1,), (2,)])

        until_ended(sleeper)


@wakes
def test_worker_wakes_up_for_a_new_task_that_is_due_first(sleeper):
    later = tasks.note(schedule=1800)
    for _ in range(3):
        soon = tasks.note(schedule=1)

        _until_succeeded(soon, sleeper)

    assert Task.objects.scheduled().get() == later


@wakes
def test_worker_wakes_up_for_a_requeued_task(sleeper, until_ended):
    task = tasks.note()
    until_ended(sleeper)

    for _ in range(3):
        assert task.requeue()

        until_ended(sleeper)


@wakes
def test_worker_wakes_up_for_a_task_that_is_no_longer_held(sleeper, until_ended):
    task = tasks.note(schedule=1800)
    assert task.hold()
    Task.objects.held().update(run_at=task.enqueued_at)

    assert task.unhold()

    until_ended(sleeper)


@pytest.mark.sample
def test_worker_wakes_up_for_a_task_that_becomes_due(worker, until_ended):
    tasks.note(schedule=2)

    until_ended(worker("--sleep=3600"))


def test_worker_wakes_up_at_the_end_of_the_duration(worker):
    assert worker("--sleep=3600", "--duration=1").wait() == 0


def _until_succeeded(task, child):
    eventually(Task.objects.succeeded().filter(pk=task.pk).exists, explain=child.output)
