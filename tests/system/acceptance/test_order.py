"""In which order a worker takes what there is, and what it leaves alone."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from django.utils import timezone

from bgtask.models import QueuePause, Task, TaskHold
from bgtask.status import HeldFor, Status
from tests import tasks
from tests.helpers import eventually
from tests.system.acceptance.conftest import statuses

pytestmark = pytest.mark.acceptance


@pytest.fixture
def in_order_of_start(execution_log):
    """Return a function that reads the tasks in the order in which they were started."""

    def read():
        stored = Task.objects.in_bulk()
        return [stored[one.task] for one in execution_log.executions()]

    return read


def test_higher_priorities_come_first_and_older_tasks_before_newer(worker, in_order_of_start):
    priorities = [number % 5 for number in range(60)]
    random.shuffle(priorities)
    for priority in priorities:
        tasks.note.using(priority=priority)()

    worker("--drain").wait()

    started = [(-task.priority, task.pk) for task in in_order_of_start()]
    assert len(started) == 60
    assert started == sorted(started)


@pytest.mark.sample
def test_priorities_hold_across_queues(worker, in_order_of_start):
    for priority in (0, 3, 1, 2):
        for queue in ("a", "b", "c"):
            tasks.note.using(queue=queue, priority=priority).enqueue_many([()] * 20)

    worker("--drain").wait()

    started = [-task.priority for task in in_order_of_start()]
    assert len(started) == 240
    assert started == sorted(started)


def test_equal_priorities_alternate_between_queues(worker, in_order_of_start):
    for queue in ("newsletter", "passwords"):
        # Slow enough that each is claimed by itself.
        tasks.note.using(queue=queue).enqueue_many([(number, 0.11) for number in range(6)])

    worker("--drain").wait()

    queues = [task.queue for task in in_order_of_start()]
    assert len(queues) == 12
    assert all(queue != following for queue, following in pairwise(queues))


def test_paused_queue_is_served_once_the_pause_is_over(worker):
    tasks.note.using(queue="mail").enqueue_many([(1,), (2,)])
    tasks.note()
    pause = QueuePause.objects.create(queue="mail", paused_at=timezone.now())

    assert worker("--drain").wait() == 0

    assert statuses() == {"SUCCESSFUL": 1, "READY": 2}
    assert not Task.objects.ready().exclude(attempts=0, token=0).exists()

    pause.delete()
    assert worker("--drain").wait() == 0

    assert statuses() == {"SUCCESSFUL": 3}


def test_tasks_on_hold_are_set_aside_and_run_after_the_hold(worker, execution_log):
    tasks.note.enqueue_many([(1,), (2,)])
    tasks.add(1, 2)
    hold = TaskHold.objects.create(task_name="tests.tasks.note", held_at=timezone.now())

    assert worker("--drain").wait() == 0

    assert statuses() == {"SUCCESSFUL": 1, "HELD": 2}
    assert not Task.objects.held().exclude(held_for=HeldFor.TYPE, attempts=0).exists()
    assert execution_log.executions() == []

    hold.delete()
    child = worker()
    eventually(
        lambda: statuses() == {"SUCCESSFUL": 3}, timeout=30, interval=0.1, explain=child.output
    )


@pytest.mark.sample
def test_unknown_name_is_held_and_runs_once_a_worker_knows_it(worker, newcomer):
    stranger = Task.objects.enqueue(newcomer.task_name)
    other = tasks.note(7)

    child = worker("--drain")

    assert child.wait() == 0
    stranger.refresh_from_db()
    other.refresh_from_db()
    assert (stranger.status, stranger.held_for) == (Status.HELD, HeldFor.UNKNOWN)
    assert (stranger.attempts, stranger.last_error) == (0, "")
    assert other.status == Status.SUCCESSFUL
    assert (
        f"not registered in this worker: {newcomer.task_name}. Workers import the" in child.output()
    )

    assert worker("--drain", env=newcomer.env).wait() == 0

    stranger.refresh_from_db()
    assert (stranger.status, stranger.attempts) == (Status.SUCCESSFUL, 1)
    assert stranger.return_value == '"hello"'
