from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from bgtask import health
from bgtask.db import DatabaseNow
from tests.factories import QueueStatsFactory, TaskFactory, minutes_ago

pytestmark = pytest.mark.django_db

LATE, IN_TIME = 400_000, 1_000  # Milliseconds. By default, the limit to warn at is 60 s.


class Samples:
    """The samples of some queues. All of them count back from the same minute."""

    def __init__(self) -> None:
        self._now = minutes_ago(0)

    def at(self, minutes: int) -> datetime:
        return self._now - timedelta(minutes=minutes)

    def store(self, ages: dict[int, int], queue: str = "mail") -> None:
        """Store a sample for each pair: minutes ago, and the age of the oldest task."""
        for minutes, age in ages.items():
            QueueStatsFactory(minute=self.at(minutes), queue=queue, ready=1, oldest_ready_age=age)


@pytest.fixture
def samples() -> Samples:
    return Samples()


def since(queue: str = "mail") -> datetime | None:
    """Return since when the queue, with a task that is late, has been behind."""
    TaskFactory(queue=queue, run_at=DatabaseNow(-4_000))
    return next(one for one in health.check().queues if one.name == queue).behind_since


def test_queue_is_behind_since_the_first_minute_above_its_limit(samples) -> None:
    samples.store({30: LATE, 29: IN_TIME, 28: LATE, 27: LATE, 1: LATE})

    assert since() == samples.at(28)


def test_queue_is_not_behind_since_the_due_time_of_its_oldest_task(samples) -> None:
    """Kind of fault: tasks were moved to a new queue, and “since” is older than the queue."""
    samples.store({3: 0, 2: 0}, queue="other")
    samples.store({1: LATE})

    assert since() == samples.at(1)


def test_beginning_is_unknown_if_the_last_sample_was_in_time(samples) -> None:
    samples.store({6: IN_TIME, 5: LATE, 1: IN_TIME})

    assert since() is None


def test_beginning_is_unknown_without_a_sample_before(samples) -> None:
    """Kind of fault: the workers come back after a night, and the queue is late since then."""
    samples.store({90: IN_TIME, 3: LATE, 2: LATE, 1: LATE})

    assert since() is None


def test_beginning_is_unknown_without_samples() -> None:
    assert since() is None


def test_beginning_is_unknown_if_it_is_before_the_hours_that_are_read(samples) -> None:
    samples.store(dict.fromkeys(range(1, 365), LATE))

    assert since() is None


def test_each_queue_is_compared_with_its_own_limit(settings, samples) -> None:
    settings.BGTASK = {"THRESHOLDS": {"queues": {"slow": {"oldest_ready": (1_000, 2_000)}}}}
    samples.store({4: IN_TIME, 3: LATE, 2: LATE, 1: LATE})
    samples.store({4: IN_TIME, 3: LATE, 2: LATE, 1: 1_100_000}, queue="slow")

    assert since() == samples.at(3)
    assert since("slow") == samples.at(1)


@pytest.mark.parametrize("number", [1, 12])
def test_one_query_reads_the_samples_of_all_queues(
    samples, django_assert_num_queries, number: int
) -> None:
    for index in range(number):
        TaskFactory(queue=f"queue-{index}", run_at=DatabaseNow(-400))
        samples.store({3: IN_TIME, 2: LATE, 1: LATE}, queue=f"queue-{index}")

    with django_assert_num_queries(5):
        figures = health.check()

    assert all(queue.behind_since for queue in figures.queues)
