"""The thread that writes outcomes is woken, and says what it could not write."""

from __future__ import annotations

import logging

import pytest
from django.db import OperationalError

from bgtask.models import Task, Worker
from bgtask.runner import completer as module
from bgtask.runner.completer import Completer
from tests.bgtask.conformance.outcomes import success
from tests.helpers import eventually
from tests.tasks import noop

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture
def claimed():
    noop.enqueue_many([()] * 3)
    return Task.objects.claim(Worker.register(), "default", 3)


@pytest.fixture
def told():
    return []


@pytest.fixture
def completer(told):
    completer = Completer(
        lambda accepted, fenced: told.append((accepted, fenced)), is_idle=lambda: False
    )
    completer.start()
    yield completer
    completer.stop(10)


def test_outcomes_that_come_in_at_the_same_moment_are_written(completer, claimed):
    first, second, _ = map(success, claimed)

    completer._pending.append(first)  # Another thread, that has not come to look yet.
    completer.put(second)

    eventually(lambda: Task.objects.succeeded().count() == 2)


def test_what_is_too_much_for_the_memory_at_once_is_written_one_by_one(
    monkeypatch, completer, claimed
):
    flush = module.flush

    def flush_one(outcomes):
        if len(outcomes) > 1:
            raise MemoryError
        return flush(outcomes)

    monkeypatch.setattr(module, "flush", flush_one)
    for outcome in map(success, claimed):
        completer.put(outcome)

    eventually(lambda: Task.objects.succeeded().count() == 3, timeout=30)


class TestWhatTheDatabaseDoesNotTake:
    @pytest.fixture(autouse=True)
    def outage(self, monkeypatch, completer):
        def flush(outcomes):
            raise OperationalError("gone")

        monkeypatch.setattr(module, "flush", flush)
        yield
        monkeypatch.undo()

    def test_is_not_called_written_at_the_stop(self, completer, claimed):
        completer.put(success(claimed[0]))

        assert not completer.stop(0.5)

    def test_is_not_told_of_as_if_others_had_taken_it(self, completer, claimed, told):
        completer.put(success(claimed[0]))
        completer.stop(0.5)

        assert [(accepted, fenced) for accepted, fenced in told if accepted or fenced] == []


def test_a_handler_of_the_log_that_raises_costs_no_outcome(
    completer, claimed, monkeypatch, request
):
    class Broken(logging.Handler):
        def emit(self, record):
            raise RuntimeError("disk full")

    really, failures = module.flush, iter([OperationalError("for a moment")])

    def flush(outcomes):
        for error in failures:
            raise error
        return really(outcomes)

    handler = Broken()
    logging.getLogger("bgtask").addHandler(handler)
    request.addfinalizer(lambda: logging.getLogger("bgtask").removeHandler(handler))
    monkeypatch.setattr(module, "flush", flush)

    completer.put(success(claimed[0]))

    eventually(Task.objects.succeeded().exists)
    assert completer.is_alive()
