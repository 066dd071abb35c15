"""Receivers of signals are user code, and may be slow."""

from __future__ import annotations

import threading

import pytest

from bgtask import signals
from bgtask.models import Task
from bgtask.runner.announcer import Announcer
from tests.bgtask.conformance.outcomes import success


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
    announcer = Announcer()
    announcer.start()
    announcer.put([(success(Task(pk=1)), "SUCCESSFUL")] * 3)

    assert announcer.backlog == 3
    assert not announcer.stop(0.1)
    assert "3 outcomes are written, and were not announced" in caplog.text


def test_all_is_announced_where_there_is_time(patient):
    announcer = Announcer()
    announcer.start()
    announcer.put([(success(Task(pk=1)), "SUCCESSFUL")] * 3)
    patient.set()

    assert announcer.stop(30)
    assert announcer.backlog == 0
