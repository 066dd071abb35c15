"""What became of attempts is counted in the minute in which they ended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bgtask.lifecycle.attempts import Outcome
from bgtask.models import Task, TaskStats
from bgtask.status import AttemptOutcome, Status
from bgtask.worker.statistics import Statistics
from tests.bgtask.lifecycle.outcomes import failure, retry, success

NOW = datetime(2026, 3, 1, 12, 30, 20, tzinfo=UTC)


@pytest.fixture
def statistics():
    statistics = Statistics()
    statistics.set_clock(NOW)
    return statistics


def ended(outcome, status, *, waited=0.0, duration=0.0):
    task = Task(task_name="tests.tasks.noop", queue="default")
    task.waited = waited
    return outcome(task, duration=duration), status


def figures(statistics):
    (numbers,) = statistics.take().values()
    return numbers


@pytest.mark.django_db
def test_statistics_keep_their_minute_if_the_clock_is_set_again(statistics):
    statistics.add([(success(Task(task_name="tests.tasks.noop")), "SUCCESSFUL")])

    statistics.set_clock(NOW + timedelta(days=3))
    statistics.write("default", statistics.take())

    assert TaskStats.objects.get().minute == NOW.replace(second=0)


@pytest.mark.django_db
def test_each_attempt_is_counted_once_with_its_latency_and_its_duration(statistics):
    statistics.add(
        [
            ended(success, "SUCCESSFUL", waited=0.25, duration=4.0),
            ended(failure, "FAILED", waited=2.0, duration=0.5),
            ended(retry, "SCHEDULED", waited=1.0, duration=1.0),
        ]
    )

    statistics.write("default", statistics.take())

    row = TaskStats.objects.values().get()
    assert (row["succeeded"], row["failed"], row["retried"]) == (1, 1, 1)
    assert (row["latency_sum"], row["latency_max"]) == (3_250, 2_000)
    assert (row["duration_sum"], row["duration_max"]) == (5_500, 4_000)


def test_an_attempt_after_which_its_task_was_cancelled_is_no_retry(statistics):
    statistics.add([ended(retry, "CANCELLED", duration=1.0)])

    assert figures(statistics) == [0, 0, 0, 0, 1_000, 0, 1_000]


def test_statistics_that_could_not_be_written_are_added_to_the_next(statistics):
    statistics.add([ended(success, "SUCCESSFUL", waited=5.0, duration=1.0)])
    unwritten = statistics.take()
    statistics.add([ended(success, "SUCCESSFUL", waited=1.0, duration=2.0)])

    statistics.give_back(unwritten)

    assert figures(statistics) == [2, 0, 0, 6_000, 3_000, 5_000, 2_000]


def test_interruptions_are_not_counted(statistics):
    left = Outcome(Task(), Status.READY, kind=AttemptOutcome.INTERRUPTED)

    statistics.add([(left, "READY")])

    assert not statistics.take()
