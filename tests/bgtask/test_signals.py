"""
What other apps are told, when, and that they cannot do harm.

The module is long because each signal is tested with each way in which an attempt ends.
"""

from __future__ import annotations

import asyncio
import logging

import pytest
from django.db import transaction

from bgtask import GiveUp, InvalidParameters, background, current_task, signals
from bgtask.db import DatabaseNow
from bgtask.lifecycle.rescue import rescue_tasks
from bgtask.models import Task, Worker
from bgtask.testing import immediately, run_due
from bgtask.worker.events import dispatch
from tests.factories import TaskFactory, WorkerFactory
from tests.tasks import add, fail, noop

NAMES = ("enqueued", "started", "succeeded", "failed", "retried")


@background(max_attempts=1)
def fail_once():
    raise ValueError("wrong")


@background
def give_up():
    raise GiveUp("no use")


@background
def fail_after_a_request_to_cancel():
    Task.objects.filter(pk=current_task().id).cancel()
    raise ValueError("wrong")


class Listener:
    """Writes down what it is told, and what was in the database by then."""

    def __init__(self):
        self.heard = []
        self.tasks = []
        self.errors = []

    def listen_to(self, name):
        def receiver(sender, task, error=None, **kwargs):
            assert sender is Task
            stored = Task.objects.filter(pk=task.pk).values_list("status", flat=True).first()
            self.heard.append((name, stored))
            self.tasks.append(task)
            self.errors.append(error)

        return receiver


@pytest.fixture
def listener():
    listener = Listener()
    receivers = {name: listener.listen_to(name) for name in NAMES}
    for name, receiver in receivers.items():
        getattr(signals, f"task_{name}").connect(receiver)
    yield listener
    for name, receiver in receivers.items():
        getattr(signals, f"task_{name}").disconnect(receiver)


# What a receiver may raise. Django's send_robust() catches only the first of these.
RAISED = (RuntimeError, SystemExit, asyncio.CancelledError, GeneratorExit)


@pytest.fixture(params=[(name, error) for name in NAMES for error in RAISED])
def _fails_to_listen(request):
    """Connect a receiver that raises to one of the signals."""
    name, error = request.param

    def receiver(**kwargs):
        raise error("not listening")

    signal = getattr(signals, f"task_{name}")
    signal.connect(receiver)
    yield
    signal.disconnect(receiver)


pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("function", "heard"),
    [
        (noop, [("succeeded", "SUCCESSFUL")]),
        (fail, [("retried", "SCHEDULED")]),
        (fail_once, [("failed", "FAILED")]),
        (give_up, [("failed", "FAILED")]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_signal_is_sent_once_after_its_event_is_stored(listener, function, heard):
    task = function()

    run_due(raise_errors=False)

    assert listener.heard == [("enqueued", "READY"), ("started", "RUNNING"), *heard]
    assert {told.pk for told in listener.tasks} == {task.pk}


def test_task_of_a_signal_has_its_new_status(listener):
    fail()

    run_due(raise_errors=False)

    *_, retried = listener.tasks
    assert (retried.task_name, retried.status, retried.attempts) == (fail.name, "SCHEDULED", 1)


def test_signals_of_failures_have_the_error(listener):
    fail("no luck")
    fail_once()

    run_due(raise_errors=False)

    errors = dict(zip([name for name, _ in listener.heard], listener.errors, strict=True))
    assert isinstance(errors["retried"], RuntimeError)
    assert isinstance(errors["failed"], ValueError)


def test_a_failed_attempt_of_a_task_to_be_cancelled_sends_neither_failed_nor_retried(listener):
    """Kind of fault: a signal promises what the status of the task does not say."""
    task = fail_after_a_request_to_cancel()

    run_due(raise_errors=False)

    task.refresh_from_db()
    assert task.status == "CANCELLED"
    assert [name for name, _ in listener.heard] == ["enqueued", "started"]


def test_a_last_failed_attempt_of_a_task_to_be_cancelled_sends_failed(listener):
    task = fail_after_a_request_to_cancel.using(max_attempts=1)()

    run_due(raise_errors=False)

    task.refresh_from_db()
    assert task.status == "FAILED"
    assert listener.heard[-1] == ("failed", "FAILED")


@pytest.mark.parametrize(
    ("fields", "heard"),
    [
        ({"deadline_at": DatabaseNow(-1)}, []),
        ({"deadline_at": DatabaseNow(-1), "max_attempts": 1}, [("failed", "FAILED")]),
        ({"locked_by": "lost"}, []),
        ({"locked_by": "lost", "crashes": 2}, [("failed", "FAILED")]),
        ({"locked_by": "stopped"}, []),
    ],
    ids=["timed out", "timed out for the last time", "lost", "poison", "interrupted"],
)
@pytest.mark.parametrize("cancelled", [True, False], ids=["cancelled", "not cancelled"])
def test_a_rescued_task_sends_what_its_status_says(listener, fields, heard, cancelled):
    """Kind of fault: a receiver waits for a signal that does not follow after a cancel."""
    if "locked_by" in fields:
        worker = WorkerFactory(dead=True)
        if fields["locked_by"] == "stopped":
            Worker.objects.filter(pk=worker.pk).update(stopped_at=DatabaseNow(-1))
        fields = fields | {"locked_by": worker}
    TaskFactory(status="RUNNING", attempts=1, cancel_requested=cancelled, **fields)

    rescue_tasks(tell=lambda ended: dispatch([(one, str(one.status)) for one in ended]))

    status = Task.objects.get().status
    assert listener.heard == (heard if heard or cancelled else [("retried", status)])
    assert (status == "CANCELLED") == (cancelled and not heard)


def test_a_malformed_task_fails_and_was_never_started(listener):
    TaskFactory(task_name=noop.name, task_params="nonsense")

    run_due(raise_errors=False)

    assert listener.heard == [("failed", "FAILED")]


def test_signals_are_sent_for_each_attempt(listener):
    fail_twice = fail.using(max_attempts=2)
    fail_twice()

    for _ in range(2):
        run_due(scheduled=True, raise_errors=False)

    assert [name for name, _ in listener.heard] == [
        *("enqueued", "started", "retried"),
        *("started", "failed"),
    ]


def test_signals_are_sent_for_each_task_of_enqueue_many(listener):
    noop.enqueue_many([(1,), (2,)])

    assert listener.heard == [("enqueued", "READY")] * 2
    assert [task.params() for task in listener.tasks] == [([1], {}), ([2], {})]


def test_error_of_enqueue_many_names_the_invalid_item(listener):
    with pytest.raises(InvalidParameters, match=r"^Item 1: args\[0\]"):
        noop.enqueue_many([(1,), (object(),)])

    assert not Task.objects.exists()


def test_signal_of_a_scheduled_task_is_sent_when_it_is_stored(listener):
    noop(schedule=60)

    assert listener.heard == [("enqueued", "SCHEDULED")]


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_signal_of_a_task_waiting_for_a_commit_is_sent_when_it_is_stored(listener):
    with transaction.atomic(using="other"):
        noop()
        heard_before = list(listener.heard)

    assert heard_before == []
    assert listener.heard == [("enqueued", "READY")]


@pytest.mark.usefixtures("_fails_to_listen")
@pytest.mark.parametrize(
    ("function", "status"), [(noop, "SUCCESSFUL"), (fail, "SCHEDULED"), (fail_once, "FAILED")]
)
def test_a_receiver_that_raises_changes_no_outcome(function, status):
    task = function()

    run_due(raise_errors=False)

    task.refresh_from_db()
    assert (task.status, task.attempts) == (status, 1)


@pytest.mark.parametrize(
    "_fails_to_listen", [("succeeded", RuntimeError), ("succeeded", SystemExit)], indirect=True
)
def test_a_receiver_that_raises_is_named_in_the_log(_fails_to_listen, caplog):
    task = noop()

    run_due()

    (record,) = [record for record in caplog.records if record.name.startswith("bgtask")]
    assert record.levelno == logging.ERROR
    assert "_fails_to_listen.<locals>.receiver" in record.message
    assert str(task) in record.message
    assert ": not listening" in caplog.text
    assert record.exc_info[0] in RAISED


@pytest.mark.parametrize(
    "_fails_to_listen", [("succeeded", error) for error in RAISED], indirect=True
)
def test_receiver_that_raises_does_not_block_other_receivers(_fails_to_listen, listener):
    noop()

    run_due()

    assert ("succeeded", "SUCCESSFUL") in listener.heard


@pytest.mark.parametrize("error", RAISED)
def test_an_async_receiver_that_raises_does_not_reach_the_code_that_enqueues(
    listener, error, caplog
):
    async def receiver(**kwargs):
        raise error("not listening")

    signals.task_enqueued.connect(receiver)
    try:
        noop()
    finally:
        signals.task_enqueued.disconnect(receiver)

    assert listener.heard == [("enqueued", "READY")]
    (record,) = [record for record in caplog.records if record.name.startswith("bgtask")]
    assert "<locals>.receiver' of a signal about" in record.message


def test_ctrl_c_during_a_receiver_ends_the_program():
    """A user who presses Ctrl-C in a command that enqueues tasks wants to end it."""

    def receiver(**kwargs):
        raise KeyboardInterrupt

    signals.task_enqueued.connect(receiver)
    try:
        with pytest.raises(KeyboardInterrupt):
            noop()
    finally:
        signals.task_enqueued.disconnect(receiver)


def test_signals_are_sent_for_tasks_run_immediately(listener):
    with immediately():
        add(1, 2)

    names = [name for name, _ in listener.heard]
    assert names == ["enqueued", "started", "succeeded"]
