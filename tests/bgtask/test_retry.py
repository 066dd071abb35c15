"""
Test what follows a failure: another attempt after its delay, or the end.

The module is long because failures, requested retries and limits are one rule for the next attempt.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta

import pytest

from bgtask import GiveUp, Retry, background, current_task
from bgtask.context import CurrentTask
from bgtask.lifecycle.claim import claim_queue
from bgtask.lifecycle.finish import finish_attempts
from bgtask.models import Attempt, Task, Worker
from bgtask.testing import run_due
from bgtask.worker.executor import execute
from tests.bgtask.times import LATENCY, RESOLUTION, seconds_until

pytestmark = pytest.mark.django_db

LATER = datetime(2060, 7, 1, 12, 0, tzinfo=UTC)


@background
def flaky(failures):
    """Fail so many times, then succeed."""
    if current_task().attempt <= failures:
        raise ConnectionError(f"refused, attempt {current_task().attempt}")
    return "done"


@background(max_attempts=2)
def fails_twice_at_most():
    raise ValueError("still wrong")


@background(max_attempts=1)
def fails_once():
    raise ValueError("wrong")


@background(backoff=30)
def waits_half_a_minute():
    raise ValueError


@background(backoff=timedelta(minutes=2))
def waits_two_minutes():
    raise ValueError


@background(backoff=lambda attempts: timedelta(hours=attempts))
def waits_an_hour_for_each_attempt():
    raise ValueError


@background(backoff=lambda attempts: 1 / (attempts - attempts))
def has_a_broken_back_off():
    raise ValueError


@background(max_attempts=2)
def asks_for_another_attempt(**when):
    raise Retry("The other side is closed.", **when)


@background
def asks_for_it_in_two_minutes():
    raise Retry(in_=timedelta(minutes=2))


@background
def asks_for_a_datetime(text):
    raise Retry(at=datetime.fromisoformat(text))


@background
def asks_for_nonsense(kind):
    odd = {"at": {"at": "tomorrow"}, "in_": {"in_": float("nan")}, "far": {"at": datetime.max}}
    raise Retry(**odd[kind])


@background
def gives_up():
    raise GiveUp("The account is closed.")


def run(**options):
    """Run what is due, and what is scheduled for later, once; return the tasks as they are."""
    return run_due(raise_errors=False, **options)


def wait_before_next_attempt(task):
    """Seconds from the failure, by the database's clock."""
    task.refresh_from_db()
    return seconds_until(task.run_at, task.history.last().finished_at)


# Another attempt


def test_a_failure_is_kept_and_followed_by_another_attempt():
    flaky(1)

    (task,) = run()

    assert (task.status, task.attempts) == ("SCHEDULED", 1)
    assert task.error_class == "ConnectionError"
    assert task.last_error.startswith("Traceback (most recent call last):")
    assert task.last_error.rstrip().endswith("ConnectionError: refused, attempt 1")
    assert f'{__file__}", line' in task.last_error
    assert list(Task.objects.retrying()) == [task]


def test_a_failure_leaves_a_row_of_history():
    task = flaky(1)

    run()

    (attempt,) = task.history.all()
    task.refresh_from_db()
    assert (attempt.number, attempt.token, attempt.outcome) == (1, task.token, "failed")
    assert (attempt.error_class, attempt.message) == ("ConnectionError", "refused, attempt 1")
    assert attempt.traceback == task.last_error
    assert attempt.error_fingerprint == task.error_fingerprint != ""
    assert attempt.worker == task.last_worker != ""
    assert attempt.started_at <= attempt.finished_at
    assert seconds_until(attempt.started_at, task.enqueued_at) == pytest.approx(0, abs=LATENCY)


def test_a_success_clears_the_error_and_keeps_the_history():
    task = flaky(2)

    for _ in range(3):
        run(scheduled=True)

    task.refresh_from_db()
    assert (task.status, task.attempts, task.return_value) == ("SUCCESSFUL", 3, '"done"')
    assert (task.last_error, task.error_class, task.error_fingerprint) == ("", "", "")
    assert [(row.number, row.message) for row in task.history.all()] == [
        (1, "refused, attempt 1"),
        (2, "refused, attempt 2"),
    ]


def test_a_success_writes_no_row_of_history():
    flaky(0)

    run()

    assert not Attempt.objects.exists()


@pytest.mark.parametrize("attempts", [1, 2, 3, 24])
def test_the_next_attempt_is_attempts_to_the_fourth_plus_five_seconds_after_the_failure(attempts):
    task = flaky(99)
    Task.objects.update(attempts=attempts - 1)

    run()

    expected = attempts**4 + 5
    assert wait_before_next_attempt(task) == pytest.approx(expected, abs=LATENCY)
    assert task.attempts == attempts


def test_the_wait_is_counted_from_the_failure_however_late_it_is_written():
    flaky(1)
    (task,) = claim_queue(Worker.register(), "default", limit=1)
    outcome = execute(task)
    outcome.ended -= 100

    finish_attempts([outcome])

    task.refresh_from_db()
    assert seconds_until(task.run_at, task.enqueued_at) == pytest.approx(6 - 100, abs=LATENCY)
    assert wait_before_next_attempt(task) == pytest.approx(6, abs=LATENCY)


def test_a_retry_is_not_run_before_its_time():
    flaky(1)

    first, second = run(), run()

    assert len(first) == 1
    assert second == []


def test_a_failure_is_a_warning_in_the_log_as_long_as_another_attempt_follows(caplog):
    task = flaky(1)

    run()

    (record,) = [record for record in caplog.records if str(task) in record.message]
    assert (record.name, record.levelno) == ("bgtask.worker.events", logging.WARNING)
    assert "will be tried again; attempt 1 of 25" in record.message
    assert "ConnectionError: refused, attempt 1" in record.message


# The end


def test_fails_after_max_attempts_executions_and_never_runs_again(settings):
    settings.MAX_ATTEMPTS = 3
    task = flaky(99)

    for _ in range(3):
        run(scheduled=True)
    again = run(scheduled=True)

    task.refresh_from_db()
    assert again == []
    assert (task.status, task.attempts, task.history.count()) == ("FAILED", 3, 3)
    assert "refused, attempt 3" in task.last_error
    assert task.finished_at is not None


def test_max_attempts_of_the_function_comes_before_the_setting():
    task = fails_twice_at_most()

    run()
    status_after_one = Task.objects.get().status
    run(scheduled=True)

    task.refresh_from_db()
    assert status_after_one == "SCHEDULED"
    assert (task.status, task.attempts) == ("FAILED", 2)


def test_max_attempts_one_allows_one_execution():
    task = fails_once()

    run()

    task.refresh_from_db()
    assert (task.status, task.attempts, task.history.count()) == ("FAILED", 1, 1)


def test_the_last_failure_is_one_error_in_the_log(caplog):
    task = fails_once()

    run()

    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.name == "bgtask.worker.events"
    assert f"{task} has failed; attempt 1 of 1" in record.message


def test_a_requeued_task_whose_attempts_are_used_up_has_one_more_execution():
    task = fails_once()
    run()

    task.requeue()
    (again,) = run()

    assert (again.status, again.attempts, again.history.count()) == ("FAILED", 2, 2)


def test_giving_up_fails_at_once():
    task = gives_up()

    run()

    task.refresh_from_db()
    assert (task.status, task.attempts, task.max_attempts) == ("FAILED", 1, None)
    assert task.error_class == "bgtask.exceptions.GiveUp"
    assert task.history.get().message == "The account is closed."


# When


@pytest.mark.parametrize(
    ("function", "seconds"),
    [
        (waits_half_a_minute, 30),
        (waits_two_minutes, 120),
        (waits_an_hour_for_each_attempt, 3 * 3600),
        (has_a_broken_back_off, 3**4 + 5),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_backoff_of_the_function_decides(function, seconds):
    task = function()
    Task.objects.update(attempts=2)

    run()

    assert wait_before_next_attempt(task) == pytest.approx(seconds, abs=LATENCY)


def test_jitter_never_shortens_the_wait(settings):
    settings.BGTASK = {"RETRY_JITTER": 1.0}
    tasks = [waits_half_a_minute() for _ in range(10)]

    run()

    waits = [wait_before_next_attempt(task) for task in tasks]
    assert 30 - LATENCY <= min(waits) < max(waits) <= 60 + LATENCY


@pytest.mark.parametrize("seconds", [90, 12.5, 3600])
def test_task_requests_a_retry_after_seconds(seconds):
    task = asks_for_another_attempt(in_=seconds)

    run()

    assert wait_before_next_attempt(task) == pytest.approx(seconds, abs=LATENCY)
    assert (task.status, task.attempts) == ("SCHEDULED", 1)
    assert task.history.get().message == "The other side is closed."


@pytest.mark.parametrize("in_", [0, -5])
def test_task_requests_a_retry_at_once(in_):
    task = asks_for_another_attempt(in_=in_)

    run()

    task.refresh_from_db()
    assert (task.status, task.attempts) == ("FAILED", 2)


@pytest.mark.parametrize(
    "text", ["2060-07-01T12:00+00:00", "2060-07-01T14:00+02:00", "2060-07-01T17:45"]
)
def test_task_requests_a_retry_at_a_datetime(text):
    task = asks_for_a_datetime(text)

    run()

    task.refresh_from_db()
    assert (task.status, task.run_at) == ("SCHEDULED", LATER)


def test_task_requests_a_retry_after_a_timedelta():
    task = asks_for_it_in_two_minutes()

    run()

    assert wait_before_next_attempt(task) == pytest.approx(120, abs=LATENCY)


class WithoutInit(Retry):
    def __init__(self, reason):
        self.reason = reason


class Unspeakable:
    def __repr__(self):
        raise RuntimeError("no words")


@background
def chooses_badly(how):
    raise {
        "a subclass of its own": lambda: WithoutInit("busy"),
        "out of all bounds": lambda: Retry(in_=10**400),
        "without words": lambda: Retry(in_=Unspeakable()),
    }[how]()


@pytest.mark.parametrize("how", ["a subclass of its own", "out of all bounds", "without words"])
def test_invalid_retry_time_means_the_default_delay(how):
    task = chooses_badly(how)

    run()

    assert wait_before_next_attempt(task) == pytest.approx(6, abs=LATENCY)
    assert task.status == "SCHEDULED"


def test_retry_without_a_time_means_the_default_delay():
    task = asks_for_another_attempt()

    run()

    assert wait_before_next_attempt(task) == pytest.approx(6, abs=LATENCY)


def test_requested_attempt_counts():
    task = asks_for_another_attempt(in_=60)

    for _ in range(2):
        run(scheduled=True)

    task.refresh_from_db()
    assert (task.status, task.attempts) == ("FAILED", 2)


@pytest.mark.parametrize("kind", ["at", "in_", "far"])
def test_nonsensical_retry_time_means_the_default_delay(kind):
    task = asks_for_nonsense(kind)

    run()

    assert wait_before_next_attempt(task) == pytest.approx(6, abs=LATENCY)
    assert task.status == "SCHEDULED"


def test_in_and_at_together_are_refused():
    with pytest.raises(ValueError, match="either in_= or at="):
        Retry(in_=5, at=LATER)


# How long


def test_max_run_time_follows_the_function_or_the_setting(settings):
    settings.MAX_RUN_TIME = timedelta(minutes=5)
    ordinary, short = records_its_deadline(), records_its_deadline_early()

    run()

    for task, seconds in ((ordinary, 300), (short, 90)):
        task.refresh_from_db()
        assert json.loads(task.return_value) == pytest.approx(seconds, abs=RESOLUTION)


def _seconds_allowed():
    task = Task.objects.get(pk=current_task().id)
    return seconds_until(task.deadline_at, task.locked_at)


# A task that was asked to stop


@background
def stops_when_asked():
    current_task().raise_if_cancelled()
    return (current_task().cancel_requested, current_task().stop_requested)


def test_task_with_a_cancel_request_can_end_as_cancelled():
    stops_when_asked()
    (task,) = claim_queue(Worker.register(), "default", limit=1)

    outcome = execute(task, CurrentTask(task, cancel_requested=True))
    finish_attempts([outcome])

    task.refresh_from_db()
    assert (task.status, task.has_attempts_left) == ("CANCELLED", True)
    assert task.history.get().outcome == "cancelled"
    assert f"{task} was asked to stop." in task.last_error


def test_task_without_a_cancel_request_continues_while_its_worker_stops():
    stops_when_asked()
    (task,) = claim_queue(Worker.register(), "default", limit=1)

    outcome = execute(task, CurrentTask(task, stop_requested=True))

    assert json.loads(outcome.return_value) == [False, True]


@background
def records_its_deadline():
    return _seconds_allowed()


@background(max_run_time=90)
def records_its_deadline_early():
    return _seconds_allowed()
