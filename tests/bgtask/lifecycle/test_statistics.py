"""The statistics of a minute add up, also if several processes add to them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from bgtask.db import DatabaseNow, operations_for
from bgtask.models import QueueHistory, QueueStats, Task, TaskStats
from bgtask.models.stats import MOST_QUEUES, OTHER_QUEUES, start_of_quarter
from tests.factories import TaskFactory
from tests.threads import all_at_once

pytestmark = pytest.mark.django_db

# succeeded, failed, retried, summed latency and duration, greatest latency and duration
FIGURES = (
    "succeeded", "failed", "retried", "latency_sum", "duration_sum", "latency_max", "duration_max",
)  # fmt: skip


def minute():
    return timezone.now().replace(second=0, microsecond=0)


def add(when, *rows):
    stored = connection.ops.adapt_datetimefield_value(when)
    operations_for(connection).add_stats(connection, [[stored, *row] for row in rows])


def ready(queues):
    """Create one task in each of ``queues`` queues, all ready at the same time."""
    Task.objects.bulk_create(
        Task(
            task_name="tests.tasks.noop",
            queue=f"q{number}",
            run_at=DatabaseNow(-1),
            enqueued_at=DatabaseNow(-1),
        )
        for number in range(queues)
    )


def figures(**which):
    return TaskStats.objects.filter(**which).values_list(*FIGURES).get()


class TestTasks:
    def test_sums_are_added_and_the_greater_peak_is_kept(self):
        when = minute()

        add(when, ["mail", "send", 1, 2, 3, 40, 50, 30, 9])
        add(when, ["mail", "send", 10, 0, 1, 60, 5, 20, 10])

        assert figures() == (11, 2, 4, 100, 55, 30, 10)
        assert TaskStats.objects.get().minute == when

    def test_each_queue_name_and_minute_has_its_own_figures(self):
        when = minute()
        before = when - timedelta(minutes=1)

        add(
            when,
            ["Mail", "send", 1, 0, 0, 0, 0, 0, 0],
            ["mail", "Send", 2, 0, 0, 0, 0, 0, 0],
            ["mail", "send", 3, 0, 0, 0, 0, 0, 0],
        )
        add(before, ["mail", "send", 4, 0, 0, 0, 0, 0, 0])

        assert sorted(TaskStats.objects.values_list("succeeded", flat=True)) == [1, 2, 3, 4]

    def test_figures_beyond_32_bits_fit(self):
        when = minute()

        add(when, ["mail", "send", 1, 0, 0, 2**40, 2**40, 2**40, 2**40])
        add(when, ["mail", "send", 1, 0, 0, 2**40, 2**40, 2**40, 2**40])

        assert figures() == (2, 0, 0, 2**41, 2**41, 2**40, 2**40)

    @pytest.mark.django_db(transaction=True)
    def test_concurrent_additions_lose_nothing(self):
        when = minute()
        names = [f"task {number}" for number in range(10)]

        def add_often(peak):
            for round_ in range(20):
                add(when, *(["mail", name, 1, 2, 3, 4, 5, peak + round_, 7] for name in names))

        all_at_once(lambda: add_often(100), lambda: add_often(50))

        for name in names:
            assert figures(task_name=name) == (40, 80, 120, 160, 200, 119, 7)


class TestQueues:
    def test_sample_has_the_number_of_ready_tasks_and_the_oldest_age(self):
        TaskFactory(queue="mail", run_at=DatabaseNow(-100))
        TaskFactory(queue="mail", run_at=DatabaseNow(-10))
        TaskFactory(queue="other", status="SCHEDULED")

        number = QueueStats.objects.sample()

        row = QueueStats.objects.get()
        assert number == 1
        assert (row.queue, row.ready) == ("mail", 2)
        assert 100_000 <= row.oldest_ready_age < 400_000
        assert (row.minute.second, row.minute.microsecond) == (0, 0)

    @pytest.mark.parametrize("crashes_of_the_oldest", [0, 1])
    def test_sample_counts_suspects(self, crashes_of_the_oldest):
        TaskFactory(queue="mail", run_at=DatabaseNow(-100), crashes=crashes_of_the_oldest)
        TaskFactory(queue="mail", run_at=DatabaseNow(-10), crashes=1 - crashes_of_the_oldest)

        QueueStats.objects.sample()

        row = QueueStats.objects.get()
        assert (row.queue, row.ready) == ("mail", 2)
        assert 100_000 <= row.oldest_ready_age < 400_000

    def test_sample_is_taken_once_per_minute_for_all_callers(self):
        TaskFactory()
        QueueStats.objects.sample()
        taken = QueueStats.objects.get()
        TaskFactory()

        new = QueueStats.objects.sample()

        # Unless the minute has just turned, which makes another row and leaves the first.
        assert new == QueueStats.objects.exclude(minute=taken.minute).count()
        assert QueueStats.objects.get(minute=taken.minute).ready == 1

    def test_sample_of_an_emptied_queue_is_zero(self):
        earlier = minute() - timedelta(minutes=5)
        QueueStats.objects.create(minute=earlier, queue="mail", ready=7, oldest_ready_age=1)

        QueueStats.objects.sample()

        latest = QueueStats.objects.latest("minute")
        assert (latest.queue, latest.ready, latest.oldest_ready_age) == ("mail", 0, 0)

    def test_queue_without_recent_samples_gets_no_row(self):
        earlier = minute() - timedelta(hours=2)
        QueueStats.objects.create(minute=earlier, queue="mail", ready=7, oldest_ready_age=1)

        assert QueueStats.objects.sample() == 0

    def test_largest_queues_get_a_sample_each_and_the_others_one_together(self):
        """Kind of fault: rows in each minute for every queue that there is."""
        ready(MOST_QUEUES + 50)
        TaskFactory(queue="q7", run_at=DatabaseNow(-7200))
        TaskFactory.create_batch(3, queue="q249", run_at=DatabaseNow(-1))

        number = QueueStats.objects.sample()

        rows = {row.queue: row for row in QueueStats.objects.all()}
        assert number == len(rows) == MOST_QUEUES + 1
        assert rows["q7"].ready == 2
        assert rows["q249"].ready == 4
        assert rows[OTHER_QUEUES].ready == 50
        assert sum(row.ready for row in rows.values()) == MOST_QUEUES + 50 + 4

    def test_sample_of_the_other_queues_becomes_zero(self):
        earlier = minute() - timedelta(minutes=5)
        QueueStats.objects.create(minute=earlier, queue=OTHER_QUEUES, ready=7, oldest_ready_age=1)

        assert QueueStats.objects.sample() == 1

        latest = QueueStats.objects.latest("minute")
        assert (latest.queue, latest.ready) == (OTHER_QUEUES, 0)

    @pytest.mark.django_db(transaction=True)
    def test_concurrent_samples_make_one_row(self):
        Task.objects.enqueue_many("tests.tasks.noop", (([n], {}) for n in range(50)))

        all_at_once(*[QueueStats.objects.sample] * 4)

        rows = QueueStats.objects.values_list("minute", "queue", "ready")
        assert len(rows) == len({when for when, *_ in rows})
        assert {row[1:] for row in rows} == {("default", 50)}


class TestHistory:
    """Quarters of an hour, added up an hour after they have passed."""

    columns = ("succeeded", "failed", "retried", "ready", "oldest_ready_age")

    def note(self, when, queue="mail", name="send", **figures):
        TaskStats.objects.create(minute=when, queue=queue, task_name=name, **figures)

    def test_quarter_has_the_sum_of_its_minutes_and_the_peak_of_its_backlog(self):
        quarter = start_of_quarter(minute() - timedelta(hours=3))
        for offset, name in ((0, "send"), (7, "send"), (7, "print"), (14, "send")):
            when = quarter + timedelta(minutes=offset)
            self.note(when, name=name, succeeded=10, failed=1, retried=2)
        for offset in (3, 9):
            QueueStats.objects.create(
                minute=quarter + timedelta(minutes=offset),
                queue="mail",
                ready=offset,
                oldest_ready_age=100 - offset,
            )

        assert QueueHistory.objects.roll_up() == 1

        row = QueueHistory.objects.get()
        assert (row.minute, row.queue) == (quarter, "mail")
        assert [getattr(row, name) for name in self.columns] == [40, 4, 8, 9, 97]

    def test_each_queue_and_quarter_has_its_own_row(self):
        quarter = start_of_quarter(minute() - timedelta(hours=3))
        after = quarter + timedelta(minutes=15)
        for when, queue in ((quarter, "mail"), (quarter, "Mail"), (after, "mail")):
            self.note(when, queue=queue, succeeded=1)

        QueueHistory.objects.roll_up()

        rows = QueueHistory.objects.order_by("minute", "queue").values_list("minute", "queue")
        assert sorted(rows) == [(quarter, "Mail"), (quarter, "mail"), (after, "mail")]

    def test_busiest_queues_get_a_row_each_and_the_others_one_together(self):
        when = start_of_quarter(minute() - timedelta(hours=3))
        TaskStats.objects.bulk_create(
            TaskStats(minute=when, queue=f"q{number}", task_name="send", succeeded=number)
            for number in range(1, MOST_QUEUES + 51)
        )
        QueueStats.objects.create(minute=when, queue=OTHER_QUEUES, ready=5, oldest_ready_age=1_000)

        QueueHistory.objects.roll_up()

        rows = {row.queue: row for row in QueueHistory.objects.all()}
        assert len(rows) == MOST_QUEUES + 1
        assert f"q{MOST_QUEUES + 50}" in rows
        assert rows[OTHER_QUEUES].succeeded == sum(range(1, 51))
        assert (rows[OTHER_QUEUES].ready, rows[OTHER_QUEUES].oldest_ready_age) == (5, 1_000)

    def test_quarter_without_samples_has_no_backlog_instead_of_zero(self):
        self.note(minute() - timedelta(hours=3), succeeded=1)

        QueueHistory.objects.roll_up()

        row = QueueHistory.objects.get()
        assert (row.ready, row.oldest_ready_age) == (None, None)

    def test_last_hour_is_not_rolled_up_yet(self):
        self.note(minute() - timedelta(minutes=50), succeeded=1)

        assert QueueHistory.objects.roll_up() == 0
        assert not QueueHistory.objects.exists()

    def test_roll_up_continues_behind_the_last_and_across_empty_days(self):
        for days in (9, 5, 1):
            self.note(minute() - timedelta(days=days), succeeded=days)
        assert QueueHistory.objects.roll_up() == 3
        self.note(minute() - timedelta(hours=4), succeeded=20)

        assert QueueHistory.objects.roll_up() == 1
        assert QueueHistory.objects.roll_up() == 0

        rows = QueueHistory.objects.order_by("minute").values_list("succeeded", flat=True)
        assert list(rows) == [9, 5, 1, 20]

    @pytest.mark.django_db(transaction=True)
    def test_concurrent_roll_ups_make_each_quarter_once(self):
        for hours in range(2, 40):
            self.note(minute() - timedelta(hours=hours), succeeded=hours)

        all_at_once(*[QueueHistory.objects.roll_up] * 3)

        rows = QueueHistory.objects.order_by("-minute").values_list("succeeded", flat=True)
        assert list(rows) == list(range(2, 40))
