"""Test that the worker's threads go on if receivers, log handlers or callbacks raise errors."""

from __future__ import annotations

import asyncio
import logging
import threading
from types import SimpleNamespace

import pytest

from bgtask import background, loggers, signals
from bgtask.lifecycle.claim import claim_queue
from bgtask.models import Task, Worker
from bgtask.testing import run_due
from bgtask.worker import Runner, supervisor, watchdog
from bgtask.worker.completer import Completer
from bgtask.worker.events import EventDispatcher
from bgtask.worker.heartbeat import Heartbeat
from bgtask.worker.maintenance import Maintenance
from bgtask.worker.statistics import Statistics
from tests.bgtask.lifecycle.outcomes import failure, success
from tests.factories import TaskFactory, WorkerFactory
from tests.helpers import eventually
from tests.tasks import fail, noop

RAISED = (RuntimeError, SystemExit, KeyboardInterrupt, asyncio.CancelledError)


@background(max_attempts=1)
def fail_for_good(message="no luck"):
    raise RuntimeError(message)


pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(params=RAISED)
def error(request):
    return request.param


@pytest.fixture
def raising(error):
    """Return a callback that raises, and counts its calls."""

    def callback(*args, **kwargs):
        callback.calls += 1
        raise error("on purpose")

    callback.calls = 0
    return callback


@background(max_attempts=2, backoff=lambda attempts: raise_exit())
def fail_with_a_backoff_that_exits():
    raise ValueError("wrong")


def raise_exit():
    raise SystemExit("on purpose")


class RaisingHandler(logging.Handler):
    def __init__(self, error):
        super().__init__()
        self._error = error
        self.raised = 0

    def emit(self, record):
        # In the main thread, KeyboardInterrupt may be the Ctrl-C of a user, and must pass.
        if self._error is KeyboardInterrupt and record.threadName == "MainThread":
            return
        self.raised += 1
        raise self._error("on purpose")


@pytest.fixture
def raising_handler(error, monkeypatch):
    monkeypatch.setattr(loggers, "_reported", set())
    handler = RaisingHandler(error)
    logger = logging.getLogger("bgtask")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def _every_level(caplog):
    caplog.set_level(logging.DEBUG, "bgtask")


@pytest.mark.usefixtures("_every_level")
def test_a_log_handler_that_raises_ends_no_worker(raising_handler, capsys):
    """Kind of fault: each failed task costs a restart of the worker."""
    failed, retried, good = fail_for_good(), fail(), [noop() for _ in range(3)]
    lost = TaskFactory(status="RUNNING", attempts=1, locked_by=WorkerFactory(dead=True))

    clean = Runner(threads=2, drain=True).run()

    assert clean
    for task, status in ((failed, "FAILED"), (retried, "SCHEDULED"), (lost, "SUCCESSFUL")):
        task.refresh_from_db()
        assert task.status == status
    assert {Task.objects.get(pk=task.pk).status for task in good} == {"SUCCESSFUL"}
    assert raising_handler.raised > 5
    assert capsys.readouterr().err.count("A log handler raised an error") == 1


def test_a_log_handler_that_raises_does_not_reach_the_code_that_logs(error, raising_handler):
    noop()

    if error is not KeyboardInterrupt:
        run_due()
        loggers.get_logger("bgtask.models").warning("A warning.")
    assert Task.objects.count() == 1


def test_signals_are_sent_although_a_log_handler_raised(raising_handler):
    """Kind of fault: a log handler that fails keeps the project's receivers from being called."""
    told = []

    def receiver(task, **kwargs):
        told.append(task.pk)

    failed, retried = fail_for_good(), fail()
    for signal in (signals.task_failed, signals.task_retried):
        signal.connect(receiver)
    try:
        Runner(drain=True).run()
    finally:
        for signal in (signals.task_failed, signals.task_retried):
            signal.disconnect(receiver)

    assert sorted(told) == [failed.pk, retried.pk]
    assert raising_handler.raised >= 2


def test_the_logger_names_the_code_that_logs(caplog):
    fail_for_good()
    run_due(raise_errors=False)
    logger = loggers.get_logger("bgtask.tests")
    logger.warning("A warning with %s.", "an argument")
    with logger.catch("An error with %s.", "an argument"):
        raise OSError

    failed, warned, caught = caplog.records[-3:]
    assert (failed.filename, failed.funcName) == ("events.py", "_failure")
    assert (warned.filename, warned.message) == ("test_services.py", "A warning with an argument.")
    assert (caught.filename, caught.message) == ("test_services.py", "An error with an argument.")


@pytest.mark.parametrize("name", ["started", "succeeded", "retried", "failed"])
def test_a_receiver_that_raises_ends_no_worker(error, raising, name):
    """Kind of fault: an error that is no Exception ends the thread that sends signals."""
    signal = getattr(signals, f"task_{name}")
    signal.connect(raising)
    try:
        tasks = [noop(), fail(), fail_for_good(), noop()]
        clean = Runner(drain=True).run()
    finally:
        signal.disconnect(raising)

    assert clean
    assert raising.calls
    statuses = [Task.objects.get(pk=task.pk).status for task in tasks]
    assert statuses == ["SUCCESSFUL", "SCHEDULED", "FAILED", "SUCCESSFUL"]


def test_events_after_a_receiver_that_raised_are_dispatched(raising):
    dispatcher = EventDispatcher()
    dispatcher.start()
    signals.task_succeeded.connect(raising)
    try:
        for _ in range(3):
            dispatcher.put([(success(Task(pk=1)), "SUCCESSFUL")])
        assert dispatcher.stop(30)
    finally:
        signals.task_succeeded.disconnect(raising)

    assert raising.calls == 3


def test_events_after_an_outcome_that_cannot_be_logged_are_dispatched(caplog):
    dispatcher = EventDispatcher()
    dispatcher.start()

    dispatcher.put([(failure(Task(pk=1)), "UNKNOWN")])
    dispatcher.put([(failure(Task(pk=2)), "FAILED")])

    assert dispatcher.stop(30)
    first, second = (record.getMessage() for record in caplog.records)
    assert "could not be logged or signalled" in first
    assert "has failed" in second


def test_the_completer_goes_on_after_its_callback_raised(raising):
    noop.enqueue_many([()] * 2)
    first, second = claim_queue(Worker.register(), "default", 2)
    completer = Completer(raising, is_idle=lambda: True)
    completer.start()

    for number, task in enumerate((first, second), start=1):
        completer.put(success(task))
        eventually(lambda: raising.calls == number)  # noqa: B023
        assert completer.is_alive()

    assert completer.stop(10)
    assert Task.objects.succeeded().count() == 2


def test_maintenance_goes_on_after_its_callback_raised(raising, settings):
    settings.BGTASK = {"LEASE": 2, "HEARTBEAT_INTERVAL": 0.5}
    maintenance = Maintenance(may_judge=lambda: True, is_idle=lambda: True, on_rescued=raising)
    maintenance.start()

    for number in (1, 2):
        TaskFactory(status="RUNNING", locked_by=WorkerFactory(dead=True))
        eventually(lambda: raising.calls == number)  # noqa: B023

    assert maintenance.is_alive()
    maintenance.stop()


def test_the_heartbeat_goes_on_after_its_callback_raised(raising, settings):
    settings.BGTASK = {"LEASE": 3, "HEARTBEAT_INTERVAL": 0.05}
    heartbeat = Heartbeat(
        Worker.register(),
        Statistics(),
        0.0,
        holds=lambda: False,
        stuck=lambda: 0,
        on_beat=raising,
    )
    heartbeat.start()

    eventually(lambda: raising.calls >= 3)

    assert heartbeat.is_alive()
    heartbeat.stop()


def test_the_watchdog_goes_on_after_a_driver_raised(error, monkeypatch):
    class Driver:
        calls = 0

        def cancel_safe(self, timeout):
            self.calls += 1
            raise error("on purpose")

    driver = Driver()
    section = watchdog._Section(SimpleNamespace(connection=driver))
    monkeypatch.setitem(watchdog._sections, -1, section)
    dog = watchdog.Watchdog(patience=0.05)
    dog.start()

    eventually(lambda: driver.calls >= 3)

    dog.stop()


def test_a_supervisor_whose_rescue_raised_leaves_the_tasks_to_others(settings, caplog):
    worker = WorkerFactory()
    TaskFactory(status="RUNNING", locked_by=worker)
    settings.BGTASK = {"MAX_CRASHES": 0}

    supervisor._take_back({worker.pk}, "exit status 1")

    assert "could not be rescued at once" in caplog.text
    assert Worker.objects.get().state == "alive"
    assert Task.objects.running().count() == 1


def test_a_back_off_that_exits_ends_no_thread():
    """Kind of fault: code of the project that runs outside of the task ends its thread."""
    task = fail_with_a_backoff_that_exits()

    assert Runner(drain=True).run()

    task.refresh_from_db()
    assert task.status == "SCHEDULED"


def test_ctrl_c_passes_in_the_main_thread_only():
    logger = loggers.get_logger("bgtask.tests")
    with pytest.raises(KeyboardInterrupt), logger.catch("Something failed."):
        raise KeyboardInterrupt
    ended = []

    def work():
        with logger.catch("Something failed."):
            raise KeyboardInterrupt
        ended.append("well")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert ended == ["well"]
