from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from bgtask.db.routing import database_now
from bgtask.health import read_history
from bgtask.models import QueueHistory, QueueStats, Task, TaskStats
from tests.factories import QueueStatsFactory, TaskStatsFactory, minutes_ago

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("hours", "minutes", "points"),
    [(1, 1, 60), (24, 15, 96), (7 * 24, 60, 168)],
    ids=["an hour", "a day", "a week"],
)
def test_history_has_as_many_points_as_a_chart_shows(hours: int, minutes: int, points: int) -> None:
    past = read_history(hours)

    assert past.step == timedelta(minutes=minutes)
    assert len(past.total.points) == points
    assert past.end - past.start == points * past.step


def test_history_ends_with_the_current_step() -> None:
    before = database_now(Task.objects.all().db)

    past = read_history(1)

    assert past.total.points[-1].at <= before + past.step
    assert past.end > before


def test_steps_are_aligned_to_local_time() -> None:
    past = read_history(24)

    wall = timezone.localtime(past.start) if timezone.is_aware(past.start) else past.start
    assert (wall.minute % 15, wall.second, wall.microsecond) == (0, 0, 0)


def test_every_minute_has_its_own_figures() -> None:
    minutes = [minutes_ago(number) for number in range(5)]
    for number, minute in enumerate(minutes):
        TaskStatsFactory(minute=minute, succeeded=number * 10, failed=1, retried=2)

    past = read_history(1)

    by_time = {point.at: point for point in past.of("default").points}
    for number, minute in enumerate(minutes):
        point = by_time[minute]
        assert (point.succeeded, point.failed, point.retried) == (number * 10, 1, 2)
        assert point.finished == number * 10 + 3


def test_a_step_is_the_sum_of_its_minutes_and_the_peak_of_its_backlog() -> None:
    newest = minutes_ago(0)
    for number in range(600):
        minute = newest - timedelta(minutes=number)
        TaskStatsFactory(minute=minute, succeeded=1)
        QueueStatsFactory(minute=minute, ready=number, oldest_ready_age=number * 1000)

    past = read_history(24)

    points = [point for point in past.total.points if point.finished]
    assert sum(point.succeeded for point in points) == 600
    assert {point.succeeded for point in points[1:-1]} == {15}
    full = points[-10]
    peak = (newest - full.at) // timedelta(minutes=1)  # Its first minute: the backlog shrank.
    assert full.ready == peak
    assert full.oldest_ready_age == peak


def test_history_adds_up_the_tasks_of_a_queue_and_the_queues() -> None:
    at = minutes_ago(3)
    TaskStatsFactory(minute=at, task_name="a", succeeded=1)
    TaskStatsFactory(minute=at, task_name="b", succeeded=2)
    TaskStatsFactory(minute=at, queue="mail", succeeded=4)
    QueueStatsFactory(minute=at, ready=5, oldest_ready_age=7000)
    QueueStatsFactory(minute=at, queue="mail", ready=6, oldest_ready_age=9000)

    past = read_history(1)

    assert [series.queue for series in past.queues] == ["default", "mail"]
    (default,) = (point for point in past.of("default").points if point.at == at)
    (total,) = (point for point in past.total.points if point.at == at)
    assert (default.succeeded, default.ready, default.oldest_ready_age) == (3, 5, 7)
    assert (total.succeeded, total.ready, total.oldest_ready_age) == (7, 11, 9)


def test_missing_sample_differs_from_an_empty_backlog() -> None:
    at = minutes_ago(2)
    QueueStatsFactory(minute=at, ready=0)

    points = {point.at: point.ready for point in read_history(1).total.points}

    assert points[at] == 0
    assert points[at - timedelta(minutes=3)] is None


def test_a_queue_without_rows_has_empty_points() -> None:
    series = read_history(1).of("unheard-of")

    assert len(series.points) == 60
    assert {point.finished for point in series.points} == {0}


def test_other_queues_and_other_times_are_left_out() -> None:
    TaskStatsFactory(minute=1, queue="mail", succeeded=1)
    TaskStatsFactory(minute=1, succeeded=10)
    TaskStatsFactory(minute=90, queue="mail", succeeded=100)

    past = read_history(1, ["mail"])

    assert sum(point.succeeded for point in past.total.points) == 1


@pytest.fixture
def days() -> None:
    """Two days of two queues, with holes, up to this minute."""
    newest = minutes_ago(0)
    for number in range(0, 2 * 1440, 7):
        minute = newest - timedelta(minutes=number)
        queue = ("mail", "default")[number % 2]
        TaskStatsFactory(minute=minute, queue=queue, succeeded=number, failed=1, retried=2)
        if number % 3:
            QueueStatsFactory(minute=minute, queue=queue, ready=number, oldest_ready_age=number)


@pytest.mark.parametrize("hours", [1, 6, 24, 48, 7 * 24])
@pytest.mark.usefixtures("days")
def test_history_is_the_same_after_a_roll_up(hours: int) -> None:
    now = database_now(Task.objects.all().db)
    before = read_history(hours, now=now)

    QueueHistory.objects.roll_up()

    assert read_history(hours, now=now) == before


@pytest.mark.usefixtures("days")
def test_history_reads_quarters_instead_of_their_minutes(django_assert_num_queries) -> None:
    now = database_now(Task.objects.all().db)
    before = read_history(7 * 24, now=now)
    QueueHistory.objects.roll_up()
    added_up = QueueHistory.objects.latest("minute").minute + timedelta(minutes=15)
    for model in (TaskStats, QueueStats):
        model.objects.filter(minute__lt=added_up).delete()

    with django_assert_num_queries(1):
        after = read_history(7 * 24, now=now)

    assert after == before


@pytest.mark.usefixtures("days")
def test_history_reads_minutes_that_are_not_rolled_up() -> None:
    now = database_now(Task.objects.all().db)
    before = read_history(24, now=now)
    QueueHistory.objects.roll_up()
    QueueHistory.objects.filter(minute__gte=now - timedelta(hours=10)).delete()

    assert read_history(24, now=now) == before


def test_history_of_any_length_takes_few_queries(django_assert_max_num_queries) -> None:
    for minute in range(0, 3000, 100):
        TaskStatsFactory(minute=minute, queue=f"queue-{minute}")

    with django_assert_max_num_queries(3):
        read_history(7 * 24)
