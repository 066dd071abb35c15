"""Receivers of signals are user code, and may be slow."""

from __future__ import annotations

import threading

import pytest

from bgtask import signals
from bgtask.lifecycle.outcome import Outcome
from bgtask.models import Task
from bgtask.status import AttemptOutcome, Status
from bgtask.worker.events import EventDispatcher, dispatch
from tests.bgtask.lifecycle.outcomes import success


@pytest.fixture
def patient():
    """A receiver that takes its time, until told to go on."""
    go_on = threading.Event()

    def receiver(**kwargs):
        go_on.wait(30)

    signals.task_succeeded.connect(receiver)
    yield go_on
    go_on.set()
    signals.task_succeeded.disconnect(receiver)


def test_what_was_not_announced_at_the_stop_is_told_of(patient, caplog):
    announcer = EventDispatcher()
    announcer.start()
    announcer.put([(success(Task(pk=1)), "SUCCESSFUL")] * 3)

    assert announcer.backlog == 3
    assert not announcer.stop(0.1)
    assert "3 outcomes are written, and were not announced" in caplog.text


def test_all_is_announced_where_there_is_time(patient):
    announcer = EventDispatcher()
    announcer.start()
    announcer.put([(success(Task(pk=1)), "SUCCESSFUL")] * 3)
    patient.set()

    assert announcer.stop(30)
    assert announcer.backlog == 0


def test_an_interruption_is_no_failure_but_another_attempt_will_follow():
    told = []

    def tell(signal, **kwargs):
        told.append(signal)

    for signal in (signals.task_failed, signals.task_retried, signals.task_given_up):
        signal.connect(tell)
    try:
        left = Outcome(Task(pk=1), Status.READY, kind=AttemptOutcome.INTERRUPTED)
        dispatch([(left, "READY")])
    finally:
        for signal in (signals.task_failed, signals.task_retried, signals.task_given_up):
            signal.disconnect(tell)

    assert told == [signals.task_retried]
