"""
Test the figures that the health check reads from the database.

The module is long because each figure of the health check has its own tests.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from bgtask import health
from bgtask.db import DatabaseNow
from bgtask.db.routing import database_now
from bgtask.models import Task
from bgtask.status import Status, WorkerState
from tests.factories import (
    HoldFactory,
    PauseFactory,
    TaskFactory,
    TaskStatsFactory,
    WorkerFactory,
)
from tests.tasks import noop

pytestmark = pytest.mark.django_db


def only_queue(name: str = "default") -> health.QueueHealth:
    (queue,) = (queue for queue in health.measure().queues if queue.name == name)
    return queue


def test_unused_queue_has_no_figures() -> None:
    assert health.measure().queues == ()


def test_figures_have_the_time_of_the_database_clock() -> None:
    before = database_now(Task.objects.all().db)

    figures = health.measure()

    after = database_now(Task.objects.all().db)
    assert before <= figures.generated_at <= after


def test_live_tasks_are_counted_by_queue_and_status() -> None:
    worker = WorkerFactory()
    TaskFactory.create_batch(2)
    TaskFactory(status=Status.SCHEDULED)
    TaskFactory(status=Status.SCHEDULED, attempts=3, error_class="ValueError")
    TaskFactory(status=Status.RUNNING, locked_by=worker)
    TaskFactory(status=Status.HELD)
    TaskFactory(queue="mail")
    for status in (Status.SUCCESSFUL, Status.FAILED, Status.CANCELLED):
        TaskFactory(status=status)

    queues = {queue.name: queue for queue in health.measure().queues}

    assert sorted(queues) == ["default", "mail"]
    default = queues["default"]
    assert (default.ready, default.running, default.held) == (2, 1, 1)
    assert (default.scheduled, default.retrying) == (2, 1)
    assert queues["mail"].ready == 1
    assert queues["mail"].scheduled == queues["mail"].running == queues["mail"].held == 0


def test_only_the_requested_queues_are_measured() -> None:
    TaskFactory(queue="mail")
    TaskFactory(queue="reports")
    TaskStatsFactory(queue="reports", succeeded=1)

    figures = health.measure(["mail", "nobody-knows-it"])

    assert [queue.name for queue in figures.queues] == ["mail", "nobody-knows-it"]


class TestOldestReady:
    def test_oldest_ready_age_is_that_of_the_task_due_first(self) -> None:
        TaskFactory(run_at=DatabaseNow(-5))
        oldest = TaskFactory(run_at=DatabaseNow(-400))

        queue = only_queue()

        assert 400 <= queue.oldest_ready_age < 460
        assert queue.oldest_ready_since == oldest.run_at

    @pytest.mark.parametrize("crashes_of_the_oldest", [0, 1])
    def test_oldest_ready_task_can_be_a_suspect(self, crashes_of_the_oldest: int) -> None:
        TaskFactory(run_at=DatabaseNow(-5), crashes=1 - crashes_of_the_oldest)
        oldest = TaskFactory(run_at=DatabaseNow(-400), crashes=crashes_of_the_oldest)

        queue = only_queue()

        assert queue.ready == 2
        assert queue.oldest_ready_since == oldest.run_at

    def test_oldest_ready_age_is_zero_without_ready_tasks(self) -> None:
        TaskFactory(status=Status.SCHEDULED, run_at=DatabaseNow(-400))  # Not promoted yet.
        TaskFactory(status=Status.HELD, run_at=DatabaseNow(-400))
        TaskFactory(status=Status.RUNNING, run_at=DatabaseNow(-400))

        queue = only_queue()

        assert queue.oldest_ready_age == 0
        assert queue.oldest_ready_since is None

    def test_paused_queue_does_not_count_for_the_oldest_ready_age(self) -> None:
        TaskFactory(run_at=DatabaseNow(-400))
        PauseFactory()

        queue = only_queue()

        assert queue.paused
        assert queue.ready == 1
        assert queue.oldest_ready_age == 0
        assert queue.oldest_ready_since is None

    def test_queue_counts_again_for_the_oldest_ready_age_after_its_pause(self) -> None:
        TaskFactory(run_at=DatabaseNow(-400))
        PauseFactory(expires_at=DatabaseNow(-1))

        queue = only_queue()

        assert not queue.paused
        assert queue.oldest_ready_age >= 400

    def test_task_types_on_hold_do_not_count_for_the_oldest_ready_age(self) -> None:
        TaskFactory(task_name="tests.tasks.fail", run_at=DatabaseNow(-400))
        TaskFactory(run_at=DatabaseNow(-5))
        HoldFactory(task_name="tests.tasks.fail")

        queue = only_queue()

        assert queue.ready == 2
        assert 5 <= queue.oldest_ready_age < 65

    def test_oldest_ready_age_is_zero_if_all_tasks_are_on_hold(self) -> None:
        TaskFactory(run_at=DatabaseNow(-400))
        HoldFactory()

        assert only_queue().oldest_ready_age == 0

    def test_oldest_ready_age_of_a_new_task_is_near_zero(self) -> None:
        noop()

        assert 0 <= only_queue().oldest_ready_age < 60


class TestRunning:
    def test_longest_run_time_is_measured(self) -> None:
        worker = WorkerFactory()
        TaskFactory(status=Status.RUNNING, locked_by=worker, locked_at=DatabaseNow(-90))
        TaskFactory(status=Status.RUNNING, locked_by=worker, locked_at=DatabaseNow(-10))

        figures = health.measure()

        assert 90 <= figures.max_running_seconds < 150
        assert figures.workers.busy == 2

    def test_running_task_past_its_deadline_is_stuck(self) -> None:
        TaskFactory(status=Status.RUNNING, deadline_at=DatabaseNow(-1))
        TaskFactory(status=Status.RUNNING)

        assert only_queue().stuck == health.Stuck(overdue=1)

    def test_running_task_of_a_silent_or_dead_worker_is_stuck(self) -> None:
        TaskFactory(status=Status.RUNNING, locked_by=WorkerFactory(silent=True))
        TaskFactory(status=Status.RUNNING, locked_by=WorkerFactory(dead=True))

        figures = health.measure()

        assert figures.stuck == health.Stuck(silent=1, lost=1)
        assert figures.workers.busy == 0

    def test_stuck_task_is_counted_once_with_several_faults(self) -> None:
        dead = WorkerFactory(dead=True, silent=True)
        TaskFactory(status=Status.RUNNING, locked_by=dead, deadline_at=DatabaseNow(-1))
        silent = WorkerFactory(silent=True)
        TaskFactory(status=Status.RUNNING, locked_by=silent, deadline_at=DatabaseNow(-1))

        assert only_queue().stuck == health.Stuck(silent=1, lost=1)


class TestResults:
    def test_attempt_that_will_be_retried_counts_as_failed(self) -> None:
        TaskStatsFactory(succeeded=70, failed=10, retried=20)

        queue = only_queue()

        assert (queue.finished_window, queue.failed_window) == (100, 30)
        assert queue.failure_ratio == pytest.approx(0.3)

    def test_failure_ratio_of_too_few_attempts_is_unknown(self) -> None:
        TaskStatsFactory(failed=19)

        assert only_queue().failure_ratio is None

    @pytest.mark.parametrize(("attempts", "is_judged"), [(19, False), (20, True)])
    def test_are_judged_from_exactly_the_least_sample_on(self, attempts, is_judged) -> None:
        TaskStatsFactory(succeeded=attempts - 5, failed=5)

        assert (only_queue().failure_ratio is not None) == is_judged

    def test_attempts_before_the_window_do_not_count(self) -> None:
        TaskStatsFactory(minute=1, succeeded=30)
        TaskStatsFactory(minute=17, failed=1000)

        queue = only_queue()

        assert (queue.finished_window, queue.failed_window) == (30, 0)

    def test_queue_can_have_its_own_window(self, settings) -> None:
        settings.BGTASK = {"THRESHOLDS": {"queues": {"mail": {"failure_window": 7200}}}}
        for queue in ("default", "mail"):
            TaskStatsFactory(queue=queue, minute=100, failed=30)
            TaskStatsFactory(queue=queue, minute=1, succeeded=70)

        assert only_queue("mail").failure_ratio == pytest.approx(0.3)
        assert only_queue("default").failure_ratio == 0

    def test_throughput_covers_the_last_minutes(self) -> None:
        TaskStatsFactory(minute=2, succeeded=60, failed=3)
        TaskStatsFactory(minute=8, succeeded=1000)

        # Five whole minutes, and what has gone of this one.
        assert 63 / 6 <= only_queue().throughput_per_minute <= 63 / 5

    def test_a_queue_is_listed_for_an_hour_after_its_last_result(self) -> None:
        TaskStatsFactory(queue="lately", minute=55, succeeded=1)
        TaskStatsFactory(queue="forgotten", minute=70, succeeded=1)

        assert [queue.name for queue in health.measure().queues] == ["lately"]


class TestWorkers:
    def test_workers_are_counted_by_state(self) -> None:
        WorkerFactory(threads=4, heartbeat_at=DatabaseNow(-3))
        WorkerFactory(threads=2)
        WorkerFactory(threads=8, state=WorkerState.STOPPING)
        WorkerFactory(threads=16, silent=True, heartbeat_at=DatabaseNow(-250))
        WorkerFactory(threads=32, dead=True, heartbeat_at=DatabaseNow(-9999))

        workers = health.measure().workers

        assert (workers.alive, workers.stopping, workers.silent) == (2, 1, 1)
        assert workers.threads == 6
        assert 250 <= workers.heartbeat_age_max < 310

    def test_workers_serve_their_named_queues_or_all(self) -> None:
        for queue in ("mail", "reports", "mail-2"):
            TaskFactory(queue=queue)
        WorkerFactory(queues="mail,other")
        WorkerFactory(queues="mail", silent=True)
        WorkerFactory(queues="mail", state=WorkerState.STOPPING)
        WorkerFactory(queues="")

        served = {queue.name: queue.served_by for queue in health.measure().queues}

        assert served == {"mail": 2, "mail-2": 1, "reports": 1}


def test_totals_are_the_sums_of_the_queues() -> None:
    TaskFactory(queue="mail", run_at=DatabaseNow(-100))
    TaskFactory.create_batch(2, queue="reports", run_at=DatabaseNow(-300))

    figures = health.measure()

    assert figures.total("ready") == 3
    assert figures.oldest_ready_age == max(queue.oldest_ready_age for queue in figures.queues)
    assert figures.oldest_ready_age >= timedelta(seconds=300).total_seconds()


@pytest.mark.parametrize("number", [1, 10])
def test_measuring_takes_four_queries_with_any_number_of_tasks(
    django_assert_num_queries, number: int
) -> None:
    for index in range(number):
        queue = f"queue-{index}"
        TaskFactory(queue=queue, run_at=DatabaseNow())
        TaskFactory(queue=queue, status=Status.RUNNING)
        TaskFactory(queue=queue, status=Status.FAILED)
        TaskStatsFactory(queue=queue, succeeded=5)
        PauseFactory(queue=queue)
        HoldFactory(task_name=f"task-{index}")

    with django_assert_num_queries(4) as captured:
        health.check()

    assert all(query["sql"].lstrip("( ").startswith("SELECT") for query in captured)


def test_a_task_that_was_requeued_for_later_is_not_retrying(settings) -> None:
    """Kind of fault: requeued successes count as retries, and an alarm goes off."""
    settings.BGTASK = {"MAX_ATTEMPTS": 5}
    retrying = TaskFactory(status=Status.SCHEDULED, attempts=3, error_class="ValueError")
    TaskFactory(status=Status.SUCCESSFUL, attempts=1)
    TaskFactory(status=Status.FAILED, attempts=5, error_class="ValueError")
    TaskFactory(status=Status.FAILED, attempts=2, max_attempts=2, error_class="ValueError")
    Task.objects.finished().requeue(spread=3600)

    (queue,) = health.measure().queues

    assert (queue.scheduled, queue.retrying) == (4, 1)
    assert list(Task.objects.retrying()) == [retrying]
    assert [task for task in Task.objects.all() if task.is_retrying] == [retrying]


def test_counts_failed_tasks_of_any_age_up_to_a_limit(monkeypatch) -> None:
    monkeypatch.setattr("bgtask.health.collect.MOST_FAILED", 2)
    assert health.measure().failed_tasks == 0

    TaskFactory(status=Status.FAILED, finished_at=DatabaseNow(-90 * 86_400))
    TaskFactory(status=Status.FAILED, queue="mail")
    figures = health.measure()
    assert (figures.failed_tasks, figures.failed_tasks_at_least) == (2, False)
    assert figures.failed_number == "2"

    TaskFactory(status=Status.FAILED)
    figures = health.measure()
    assert (figures.failed_tasks, figures.failed_tasks_at_least) == (2, True)
    assert figures.failed_number == "2+"


def test_counts_no_failed_tasks_for_single_queues() -> None:
    TaskFactory(status=Status.FAILED, queue="mail")

    assert health.measure(["mail"]).failed_tasks is None
    assert health.only(health.check(), ["mail"]).failed_tasks is None


def test_counting_failed_tasks_reads_no_more_than_the_limit(django_assert_num_queries) -> None:
    """Kind of fault: the health check becomes slower with each task that is kept."""
    TaskFactory(status=Status.FAILED)

    with django_assert_num_queries(4) as captured:
        health.measure()

    (counted,) = (query["sql"] for query in captured if "'FAILED'" in query["sql"])
    assert "LIMIT 10001" in counted
