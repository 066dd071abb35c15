"""Receivers of signals are user code, and may be slow."""

from __future__ import annotations

import threading

import pytest

from bgtask import signals
from bgtask.lifecycle.attempts import Outcome
from bgtask.models import Task
from bgtask.status import AttemptOutcome, Status
from bgtask.worker.events import EventDispatcher, dispatch
from tests.bgtask.lifecycle.outcomes import success


@pytest.fixture
def patient():
    """Connect a receiver that waits, and yield the event that tells it to go on."""
    go_on = threading.Event()

    def receiver(**kwargs):
        go_on.wait(30)

    signals.task_succeeded.connect(receiver)
    yield go_on
    go_on.set()
    signals.task_succeeded.disconnect(receiver)


def test_unannounced_outcomes_are_reported_at_the_stop(patient, caplog):
    announcer = EventDispatcher()
    announcer.start()
    announcer.put([(success(Task(pk=1)), "SUCCESSFUL")] * 3)

    assert announcer.backlog == 3
    assert not announcer.stop(0.1)
    assert "3 outcomes are written, and were not announced" in caplog.text


def test_all_outcomes_are_announced_in_time(patient):
    announcer = EventDispatcher()
    announcer.start()
    announcer.put([(success(Task(pk=1)), "SUCCESSFUL")] * 3)
    patient.set()

    assert announcer.stop(30)
    assert announcer.backlog == 0


@pytest.mark.parametrize("kind", [kind for kind in AttemptOutcome if kind != "cancelled"])
@pytest.mark.parametrize(
    ("status", "sent"),
    [
        (Status.READY, [signals.task_retried]),
        (Status.SCHEDULED, [signals.task_retried]),
        (Status.FAILED, [signals.task_failed]),
        (Status.CANCELLED, []),
    ],
    ids=["ready", "scheduled", "failed", "cancelled"],
)
def test_signals_match_the_new_status_of_the_task(kind, status, sent):
    """Kind of fault: a receiver of failures hears of attempts that will be tried again."""
    assert _signals_of(Outcome(Task(pk=1), status, kind=kind), status) == sent


def test_a_cancelled_attempt_sends_no_signal():
    cancelled = Outcome(Task(pk=1), Status.CANCELLED, kind=AttemptOutcome.CANCELLED)

    assert _signals_of(cancelled, Status.CANCELLED) == []


def _signals_of(outcome, status):
    received = []

    def receive(signal, **kwargs):
        received.append(signal)

    every = (signals.task_succeeded, signals.task_failed, signals.task_retried)
    for signal in every:
        signal.connect(receive)
    try:
        dispatch([(outcome, status.value)])
    finally:
        for signal in every:
            signal.disconnect(receive)
    return received
