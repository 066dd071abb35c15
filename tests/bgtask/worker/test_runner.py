"""What a worker starts and what it leaves alone, with real threads in this process."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from django.db import OperationalError, connections

from bgtask.db import DatabaseNow
from bgtask.lifecycle.claim import claim_queue
from bgtask.models import Task, Worker
from bgtask.status import Status
from bgtask.worker import Runner, claimer
from bgtask.worker import runner as module
from bgtask.worker.heartbeat import Heartbeat
from tests import tasks
from tests.factories import PauseFactory, TaskFactory
from tests.helpers import eventually

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def gate(tmp_path, execution_log):
    """Return a file for which tests.tasks.wait_for waits. The end of the test creates it."""
    gate = Path(tmp_path, "gate")
    yield gate
    gate.touch()


@pytest.fixture
def run(gate):
    """Return a function that starts a worker in a thread. It is stopped at the end of the test."""
    started = []

    def run(**options):
        runner = Runner(**{"sleep": 0.02, **options})

        def work():
            runner.run()
            connections.close_all()

        thread = threading.Thread(target=work)
        thread.start()
        started.append((runner, thread))
        return runner

    yield run
    gate.touch()
    for runner, thread in started:
        runner.stop()
        thread.join()


def until_polled():
    """
    Wait until a worker has gone through its whole loop since this call.

    A poll makes due tasks READY. The second can only be due at a later poll than the first.
    """
    for _ in range(2):
        due = TaskFactory(status=Status.SCHEDULED, run_at=DatabaseNow(), queue="nobody-is-served")
        eventually(Task.objects.ready().filter(pk=due.pk).exists)


def until_running(task):
    eventually(Task.objects.running().filter(pk=task.pk).exists)


@pytest.fixture(autouse=True)
def _served_by_nobody():
    """Keep what until_polled() enqueues from being claimed."""
    PauseFactory(queue="nobody-is-served")


def test_nothing_starts_while_a_suspect_runs(run, gate):
    suspect = TaskFactory(
        task_name="tests.tasks.wait_for", task_params=f'[["{gate}"], {{}}]', crashes=1
    )
    run(threads=2)
    until_running(suspect)

    others = [TaskFactory(), TaskFactory(queue="mail", priority=9)]
    until_polled()
    assert set(Task.objects.running()) == {suspect}
    assert Task.objects.ready().filter(pk__in=[task.pk for task in others]).count() == 2

    gate.touch()
    eventually(lambda: Task.objects.succeeded().count() == 1 + len(others))


def test_a_pause_binds_what_was_claimed_ahead(run, gate, monkeypatch, execution_log):
    # Otherwise the unstarted tasks would be released after a second, paused or not.
    monkeypatch.setattr(claimer, "MAX_CLAIM_WAIT_SECONDS", 3600.0)
    tasks.noop.using(priority=2).enqueue_many([()] * 300)
    slow = tasks.wait_for.using(priority=1)(str(gate))
    tasks.note.using(queue="mail").enqueue_many([(number,) for number in range(300)])
    run(sleep=0.1)
    until_running(slow)
    mail = Task.objects.filter(queue="mail")
    eventually(mail.running().exists)

    PauseFactory(queue="mail")

    eventually(lambda: not mail.running().exists())
    gate.touch()
    eventually(Task.objects.succeeded().filter(pk=slow.pk).exists)
    until_polled()
    assert mail.filter(status=Status.READY, attempts=0).count() == 300
    assert {one.task for one in execution_log.executions()} == {slow.pk}


def test_nothing_starts_or_is_claimed_while_the_lease_may_have_ended(run, monkeypatch):
    monkeypatch.setattr(Heartbeat, "trusted", lambda heartbeat: False)
    task = TaskFactory()
    runner = run()
    eventually(Worker.objects.exists)
    claims = []
    monkeypatch.setattr(runner._claimer, "claim", lambda *args: claims.append(args) or 0)
    passes = []
    release_stale = runner._claimer.release_stale
    monkeypatch.setattr(runner._claimer, "release_stale", lambda: passes.append(release_stale()))

    eventually(lambda: len(passes) >= 3)

    assert claims == []
    assert not runner._may_start()
    assert Task.objects.get() == task
    assert Task.objects.get().status == Status.READY


def test_a_task_whose_claim_got_no_reply_is_run_all_the_same(run, monkeypatch):
    """Kind of fault: a row that is RUNNING for a living worker which does not know of it."""
    runner = run()
    eventually(lambda: hasattr(runner, "worker"))
    really, replies = runner._claimer.claim, ["lost"]

    def claim(worker, wanted):
        if not replies:
            return really(worker, wanted)
        if claim_queue(worker, "default", 1):
            replies.clear()
            raise OperationalError("the server closed the connection")
        return 0

    monkeypatch.setattr(runner._claimer, "claim", claim)
    task = TaskFactory()

    eventually(lambda: not replies)
    eventually(Task.objects.succeeded().filter(pk=task.pk).exists, timeout=5)


def test_stops_after_its_number_of_tasks_and_claims_no_more(run):
    TaskFactory.create_batch(5)

    assert Runner(max_tasks=3, threads=2).run()

    assert Task.objects.succeeded().count() == 3
    assert set(Task.objects.ready().values_list("attempts", "token")) == {(0, 0)}


def test_nothing_starts_while_too_many_outcomes_are_unwritten(run, monkeypatch):
    """A crash would repeat every attempt whose outcome is not written."""
    monkeypatch.setattr(module, "MAX_UNWRITTEN_OUTCOMES", 0)
    TaskFactory.create_batch(2)
    runner = run()
    eventually(lambda: hasattr(runner, "_heartbeat"))

    assert not runner._may_start()
