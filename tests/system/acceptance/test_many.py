"""Many tasks, and several workers that are after them."""

from __future__ import annotations

from collections import Counter

import pytest

from bgtask.models import Attempt, Task
from bgtask.status import Status
from tests import tasks
from tests.helpers import eventually
from tests.system.acceptance.conftest import statuses, until_alive

pytestmark = pytest.mark.acceptance

MANY = 2_000


@pytest.mark.parametrize("threads", [1, pytest.param(4, marks=pytest.mark.sample)])
def test_two_workers_run_each_task_once(worker, until_ended, execution_log, threads):
    children = [worker(f"--threads={threads}", "--sleep=0.1", LEASE=60) for _ in range(2)]
    for child in children:
        until_alive(child)

    tasks.note.enqueue_many([(number,) for number in range(MANY)])
    until_ended(*children, timeout=120)

    assert statuses() == {"SUCCESSFUL": MANY}
    assert Counter(one.task for one in execution_log.executions()) == Counter(
        Task.objects.values_list("pk", flat=True)
    )
    assert {one.start.pid for one in execution_log.executions()} <= {
        child.pid for child in children
    }
    assert not Task.objects.exclude(attempts=1, crashes=0).exists()
    assert not Attempt.objects.exists()


def test_supervised_processes_run_each_task_once(worker, execution_log):
    tasks.note.enqueue_many([(number,) for number in range(MANY)])

    child = worker("--processes=2", "--threads=2", "--drain", LEASE=60)

    assert child.wait(120) == 0
    assert statuses() == {"SUCCESSFUL": MANY}
    assert Counter(one.task for one in execution_log.executions()) == Counter(
        Task.objects.values_list("pk", flat=True)
    )


def test_each_result_is_stored_with_its_task(worker, until_ended):
    stored = [tasks.note(number) for number in range(300)]

    until_ended(worker("--threads=4"), worker("--threads=4"))

    values = dict(Task.objects.values_list("pk", "return_value"))
    assert values == {task.pk: str(number) for number, task in enumerate(stored)}
    assert set(Task.objects.values_list("status", flat=True)) == {Status.SUCCESSFUL}


def test_busy_worker_releases_prefetched_tasks_for_good(worker, gate, until_running):
    # It has learned that tasks are quick.
    tasks.noop.using(priority=2).enqueue_many([()] * 300)
    slow = tasks.wait_for.using(priority=1)(gate.path)
    tasks.note.using(queue="mail").enqueue_many([(number,) for number in range(20)])
    child = worker("--sleep=0.1", LEASE=60)
    until_running(slow, child)
    mail = Task.objects.filter(queue="mail")
    eventually(mail.running().exists, explain=child.output)

    eventually(lambda: not mail.running().exists(), explain=child.output)
    tokens = dict(mail.values_list("pk", "token"))
    # It has looked again once it has seen that this one is due.
    tasks.note(schedule=0.1)
    eventually(lambda: not Task.objects.scheduled().exists(), explain=child.output)

    assert set(mail.values_list("status", "attempts")) == {(Status.READY, 0)}
    assert dict(mail.values_list("pk", "token")) == tokens  # It was not claimed again.
    assert min(tokens.values()) > 0
