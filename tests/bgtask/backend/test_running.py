"""
Test how tasks of Django's API are run, and which signals are sent when.

The module is long because it compares signals, logs and queries of the same tasks.
"""

from __future__ import annotations

import logging
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from bgtask.backend import BgtaskBackend, api
from bgtask.backend.announcements import FinishObserver
from bgtask.lifecycle.attempts import Outcome
from bgtask.models import Attempt, Task
from bgtask.status import Status
from bgtask.testing import TaskFailed, immediately, run_due
from tests.bgtask.backend import jobs
from tests.bgtask.backend.signal_log import recorded
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db


def drain(times: int = 1) -> None:
    for _ in range(times):
        run_due(raise_errors=False, scheduled=True)


@pytest.fixture
def quiet():
    """Django logs each signal, and the log is switched off."""
    level = api.logger.level
    api.logger.setLevel(logging.CRITICAL)
    yield
    api.logger.setLevel(level)


def test_a_task_is_run_and_its_value_kept():
    result = jobs.add.enqueue(1, two=2)

    run_due()

    result.refresh()
    assert (result.status, result.return_value) == (api.SUCCESSFUL, 3)
    assert result.attempts == 1


def test_an_async_task_uses_the_connection_of_its_thread():
    User.objects.create(username="ada")
    result = jobs.count_users.enqueue()

    run_due()

    result.refresh()
    assert result.return_value == 1


def test_a_task_gets_its_context():
    result = jobs.describe.enqueue("first")

    run_due()

    result.refresh()
    assert result.return_value == ["first", 1, result.id, "RUNNING", "describe"]


def test_a_row_that_no_backend_stored_is_run_without_signals():
    Task.objects.enqueue(jobs.describe.module_path, ("by name",))

    with recorded() as sent:
        (row,) = run_due()

    assert row.status == "SUCCESSFUL"
    assert row.return_value == '["by name", 1, "", "RUNNING", "describe"]'
    assert not sent


def test_a_failed_task_is_not_tried_again_by_default():
    result = jobs.fail.enqueue()

    drain(3)

    result.refresh()
    assert (result.status, result.attempts) == (api.TaskResultStatus.FAILED, 1)
    assert result.errors[0].exception_class is ValueError


def test_options_say_how_often_a_task_is_tried():
    result = jobs.succeed_the_third_time.enqueue()

    drain(3)

    result.refresh()
    assert (result.status, result.attempts, len(result.errors)) == (api.SUCCESSFUL, 3, 2)


def test_the_wait_before_a_retry_is_that_of_the_backend(settings):
    jobs.fail.using(backend="patient").enqueue()

    run_due(raise_errors=False)

    row = Task.objects.get()
    failed_at = Attempt.objects.get().finished_at
    assert row.status == "SCHEDULED"
    assert 29.9 < (row.run_at - failed_at).total_seconds() < 31


def test_give_up_ends_the_retries():
    result = jobs.give_up.enqueue()

    drain(2)

    result.refresh()
    assert (result.status, result.attempts) == (api.TaskResultStatus.FAILED, 1)
    assert result.errors[0].exception_class_path == "bgtask.exceptions.GiveUp"


def test_a_return_value_that_is_no_json_fails_the_task_and_is_not_repeated():
    """Kind of fault: work that is done is done again, because its value can't be kept."""
    jobs.executed.clear()
    result = jobs.return_an_object.enqueue()

    drain(3)

    result.refresh()
    assert jobs.executed == ["return_an_object"]
    assert (result.status, result.attempts) == (api.TaskResultStatus.FAILED, 1)
    assert result.errors[0].exception_class is TypeError
    assert "Unsupported type" in result.errors[0].traceback


def test_the_traceback_begins_with_the_code_of_the_task():
    result = jobs.fail.enqueue()

    run_due(raise_errors=False)

    result.refresh()
    _header, first, *_ = result.errors[0].traceback.splitlines()
    assert "tests/bgtask/backend/jobs.py" in first


def test_run_due_raises_the_error_of_a_task():
    jobs.fail.enqueue()

    with pytest.raises(TaskFailed) as failure:
        run_due()

    assert isinstance(failure.value.__cause__, ValueError)


def enqueue_and_run():
    jobs.interrupt.enqueue()
    run_due(raise_errors=False)


def enqueue_immediately():
    with immediately(raise_errors=False):
        jobs.interrupt.enqueue()


@pytest.mark.parametrize("run", [enqueue_and_run, enqueue_immediately])
def test_an_interruption_by_the_keyboard_is_raised_and_the_claim_released(run):
    with pytest.raises(KeyboardInterrupt):
        run()

    row = Task.objects.get()
    assert (row.status, row.attempts) == ("READY", 0)


# Signals


def test_signals_are_sent_in_djangos_order_with_what_is_true_then():
    with recorded() as sent:
        result = jobs.add.enqueue(1)
        run_due()

    assert [one.brief for one in sent] == [
        ("enqueued", "READY"), ("started", "RUNNING"), ("finished", str(api.SUCCESSFUL)),
    ]  # fmt: skip
    assert {one.sender for one in sent} == {BgtaskBackend}
    assert {one.result.id for one in sent} == {result.id}
    assert [one.result.attempts for one in sent] == [0, 1, 1]
    assert sent[2].result == jobs.add.get_result(result.id)


def test_immediately_sends_signals_in_djangos_order():
    with recorded() as sent, immediately():
        result = jobs.add.enqueue(1, two=2)

    assert [one.name for one in sent] == ["enqueued", "started", "finished"]
    assert (result.status, result.return_value) == (api.SUCCESSFUL, 3)


def test_task_finished_is_sent_once_after_the_last_attempt():
    with recorded() as sent:
        jobs.succeed_the_third_time.enqueue()
        jobs.fail_three_times.enqueue()
        drain(3)

    names = [one.name for one in sent]
    assert names.count("started") == 6
    assert names.count("finished") == 2
    finished = {one.result.task.name: one for one in sent if one.name == "finished"}
    assert finished["succeed_the_third_time"].result.status == api.SUCCESSFUL
    failed = finished["fail_three_times"]
    assert (str(failed.result.status), len(failed.result.errors)) == ("FAILED", 3)
    assert failed.exception is ValueError


def test_task_finished_says_how_the_task_ended_even_if_it_was_requeued_since():
    row = TaskFactory(
        task_name="tests.bgtask.backend.jobs.add", backend="default", result_id=uuid4()
    )
    with recorded() as sent:
        FinishObserver().observe([(Outcome(row, Status.SUCCESSFUL, 0.0), "SUCCESSFUL")])

    assert [one.brief for one in sent] == [("finished", str(api.SUCCESSFUL))]


def test_the_running_result_of_a_later_attempt_has_the_errors_before():
    with recorded() as sent:
        jobs.fail_three_times.enqueue()
        drain(3)

    started = [one.result for one in sent if one.name == "started"]
    assert [(len(one.worker_ids), len(one.errors)) for one in started] == [(1, 0), (2, 1), (3, 2)]
    assert len({one.started_at for one in started[1:]}) == 1
    assert started[0].last_attempted_at < started[1].last_attempted_at


def test_errors_of_receivers_change_nothing():
    def fail(**kwargs):
        raise RuntimeError("a receiver")

    def leave(**kwargs):
        raise SystemExit

    for receive in (fail, leave):
        for signal in (api.task_enqueued, api.task_started, api.task_finished):
            signal.connect(receive)
        try:
            result = jobs.add.enqueue(1)
            run_due()
        finally:
            for signal in (api.task_enqueued, api.task_started, api.task_finished):
                signal.disconnect(receive)
        result.refresh()
        assert result.status == api.SUCCESSFUL


def test_a_cancelled_attempt_has_failed():
    with recorded() as sent:
        result = jobs.stop_if_asked.enqueue()
        run_due(raise_errors=False)

    assert Task.objects.get().status == "CANCELLED"
    assert sent[-1].brief == ("finished", "FAILED")
    result.refresh()
    assert result.errors[0].exception_class_path == "bgtask.exceptions.Cancelled"


def test_a_task_whose_alias_is_gone_is_run_and_read():
    result = jobs.fail_three_times.using(backend="patient").enqueue()
    Task.objects.update(backend="gone")

    with recorded() as sent:
        drain(3)

    assert [one.name for one in sent] == ["started"] * 3 + ["finished"]
    assert {(one.sender, one.result.backend) for one in sent} == {(BgtaskBackend, "default")}
    assert jobs.fail_three_times.get_result(result.id).backend == "default"


def test_a_failure_is_logged_once(caplog):
    jobs.fail.enqueue()

    run_due(raise_errors=False)

    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.name for record in errors] == [api.logger.name]
    assert errors[0].exc_info[0] is ValueError


def test_a_failure_is_logged_by_bgtask_if_django_does_not(caplog, quiet):
    jobs.fail.enqueue()

    run_due(raise_errors=False)

    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.name for record in errors] == ["bgtask.worker.events"]


# Queries


def queries_of_a_drain() -> int:
    with CaptureQueriesContext(connection) as captured:
        run_due(raise_errors=False)
    return len(captured)


def test_without_receivers_a_task_takes_no_more_queries_than_a_background_function(quiet):
    TaskFactory(task_name="tests.tasks.noop")
    before = queries_of_a_drain()

    jobs.add.enqueue(1)
    assert queries_of_a_drain() == before


def test_signals_of_a_batch_of_first_attempts_take_two_queries(quiet):
    jobs.add.enqueue(1)
    before = queries_of_a_drain()

    jobs.add.enqueue(1)
    with recorded():
        assert queries_of_a_drain() == before + 2


def test_the_context_of_a_first_attempt_takes_no_query(quiet):
    jobs.add.enqueue(1)
    before = queries_of_a_drain()

    jobs.describe.enqueue("name")
    assert queries_of_a_drain() == before
