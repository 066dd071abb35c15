"""
Test that each outcome is written once, and only to the task that still has its token.

The module is long because each kind of outcome, time and text is one case of the same write.
"""

from __future__ import annotations

import random
import time
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from bgtask.db import DatabaseNow, SecondsSince
from bgtask.failures import MAX_MESSAGE, MAX_TEXT, plain_failure
from bgtask.lifecycle.attempts import Outcome, attempt_of, record_attempts
from bgtask.lifecycle.claim import claim_queue, release_claims, set_aside_claims
from bgtask.lifecycle.finish import already_finished, finish_attempts
from bgtask.lifecycle.rescue import rescue_tasks
from bgtask.models import Attempt, Task, Worker
from bgtask.status import AttemptOutcome, HeldFor, Status
from tests.bgtask.lifecycle.outcomes import FAILURE, KINDS, failure, retry, success
from tests.factories import TaskFactory, WorkerFactory
from tests.threads import all_at_once

pytestmark = pytest.mark.django_db

ERROR = ("last_error", "error_message", "error_class", "error_fingerprint")
AN_ERROR = (FAILURE.traceback, FAILURE.message, FAILURE.error_class, FAILURE.fingerprint)
NO_ERROR = ("", None, "", "")


def claim(number=1):
    return claim_queue(WorkerFactory(), "default", number)


def claimed(**fields):
    TaskFactory(**fields)
    (task,) = claim()
    return task


def plainly_failed(task, message):
    failure = plain_failure("", message)
    return Outcome(task, Status.FAILED, kind=AttemptOutcome.FAILED, failure=failure)


def values(task, *names):
    return Task.objects.filter(pk=task.pk).values_list(*names).get()


def seconds_since(column):
    """By the clock of the database, of the only task there is."""
    return Task.objects.annotate(since=SecondsSince(column)).get().since


def everything():
    return list(Task.objects.order_by("pk").values()), list(Attempt.objects.order_by("pk").values())


class TestKindsOfOutcome:
    def test_success_is_written(self):
        task = claimed(
            last_error="old", error_message="old", error_class="Old", error_fingerprint="o" * 32
        )

        accepted = finish_attempts([success(task, return_value='"ü"', duration=1.2344)])

        assert accepted == {task.pk: Status.SUCCESSFUL}
        assert values(task, "status", "return_value", "duration_ms", "token", "attempts") == (
            Status.SUCCESSFUL,
            '"ü"',
            1234,
            task.token,
            1,
        )
        assert values(task, *ERROR) == NO_ERROR
        assert not Attempt.objects.exists()

    def test_failure_is_written(self):
        task = claimed()

        accepted = finish_attempts([failure(task, duration=2)])

        assert accepted == {task.pk: Status.FAILED}
        assert values(task, "status", "return_value", "duration_ms", "token", "attempts") == (
            Status.FAILED,
            None,
            2000,
            task.token,
            1,
        )
        assert values(task, *ERROR) == AN_ERROR

    def test_retry_is_written(self):
        task = claimed(return_value="1")

        accepted = finish_attempts([retry(task, delay=60)])

        assert accepted == {task.pk: Status.SCHEDULED}
        assert values(task, "status", "return_value", "finished_at", "token", "attempts") == (
            Status.SCHEDULED,
            None,
            None,
            task.token,
            1,
        )
        assert values(task, *ERROR) == AN_ERROR

    @pytest.mark.parametrize("kind", KINDS)
    def test_finished_task_has_no_worker(self, kind):
        task = claimed()

        finish_attempts([KINDS[kind](task)])

        assert values(task, "locked_by", "locked_at", "deadline_at") == (None, None, None)
        assert values(task, "last_worker") == (task.last_worker,)

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [("success", "SUCCESSFUL"), ("failure", "FAILED"), ("retry", "CANCELLED")],
    )
    def test_requested_cancel_prevents_only_another_attempt(self, kind, expected):
        task = claimed()
        task.cancel()

        accepted = finish_attempts([KINDS[kind](task)])

        assert accepted == {task.pk: expected}
        assert values(task, "status") == (expected,)
        assert values(task, "finished_at") != (None,)


class TestTimes:
    def test_ages_are_subtracted_from_the_database_clock(self):
        task = claimed()
        ended = time.monotonic() - 100

        finish_attempts([success(task, duration=20, ended=ended)])

        assert seconds_since("finished_at") == pytest.approx(100, abs=10)
        assert seconds_since("started_at") == pytest.approx(120, abs=10)

    def test_a_retry_waits_from_the_end_of_the_attempt(self):
        task = claimed()

        finish_attempts([retry(task, delay=1000, ended=time.monotonic() - 100)])

        assert seconds_since("run_at") == pytest.approx(-900, abs=10)

    def test_delay_lasts_exactly_from_the_end_of_the_attempt(self):
        task = claimed()

        finish_attempts([retry(task, delay=630)])

        row, attempt = Task.objects.get(), Attempt.objects.get()
        # Two statements, so two ages: they may only differ by what lies between them.
        assert (row.run_at - attempt.finished_at).total_seconds() == pytest.approx(630, abs=0.5)

    def test_retry_can_have_an_explicit_time(self):
        task = claimed()
        chosen = timezone.now().replace(microsecond=123_000) + timedelta(days=3)

        finish_attempts([retry(task, delay=None, run_at=chosen)])

        assert values(task, "run_at") == (chosen,)

    @pytest.mark.parametrize("kind", ["success", "failure"])
    def test_finish_does_not_change_run_at(self, kind):
        run_at = TaskFactory().run_at
        (task,) = claim()

        finish_attempts([KINDS[kind](task)])

        assert values(task, "run_at") == (run_at,)

    def test_started_at_is_the_start_of_the_first_attempt(self):
        task = claimed()
        finish_attempts([retry(task, delay=0, ended=time.monotonic() - 50)])
        first = values(task, "started_at")
        Task.objects.run_now()
        (task,) = claim()

        finish_attempts([success(task, duration=1)])

        assert first != (None,)
        assert values(task, "started_at") == first

    def test_outcome_in_a_mixed_batch_keeps_its_own_times(self):
        TaskFactory.create_batch(3)
        one, two, three = claim(3)
        named = timezone.now().replace(microsecond=0) + timedelta(hours=5)

        finish_attempts(
            [retry(one, delay=None, run_at=named), success(two), retry(three, delay=7200)]
        )

        assert values(one, "run_at") == (named,)
        assert Task.objects.filter(
            pk=three.pk, run_at__gt=DatabaseNow(7000), run_at__lte=DatabaseNow(7200)
        ).exists()


class TestFence:
    @pytest.mark.parametrize("kind", KINDS)
    def test_an_old_token_changes_nothing(self, kind):
        stale = claimed()
        release_claims([stale])
        claim()
        before = everything()

        assert finish_attempts([KINDS[kind](stale)]) == {}
        assert everything() == before

    @pytest.mark.parametrize("status", sorted(set(Status) - {Status.RUNNING}))
    @pytest.mark.parametrize("kind", KINDS)
    def test_task_that_is_not_running_is_left_alone_even_with_the_right_token(self, kind, status):
        task = TaskFactory(status=status)
        before = everything()

        assert finish_attempts([KINDS[kind](task)]) == {}
        assert everything() == before

    @pytest.mark.parametrize("kind", KINDS)
    def test_deleted_task_does_not_fail_the_batch(self, kind):
        task = claimed()
        Task.objects.filter(pk=task.pk).delete()

        assert finish_attempts([KINDS[kind](task)]) == {}

    def test_empty_batch_has_no_effect(self):
        assert finish_attempts([]) == {}

    def test_stale_outcome_does_not_block_other_outcomes(self):
        TaskFactory.create_batch(3)
        one, stale, two = claim(3)
        Task.objects.filter(pk=stale.pk).cancel(force=True)

        accepted = finish_attempts([retry(one), failure(stale), success(two)])

        assert accepted == {one.pk: Status.SCHEDULED, two.pk: Status.SUCCESSFUL}
        assert values(stale, "status") == (Status.CANCELLED,)

    def test_only_the_current_of_two_attempts_in_a_batch_is_accepted(self):
        stale = claimed()
        release_claims([stale])
        (present,) = claim()

        accepted = finish_attempts([failure(stale), success(present)])

        assert accepted == {present.pk: Status.SUCCESSFUL}
        assert values(present, "status") == (Status.SUCCESSFUL,)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_flush_that_is_repeated_changes_nothing(self, kind):
        outcome = KINDS[kind](claimed())
        finish_attempts([outcome])
        before = everything()

        assert finish_attempts([outcome]) == {}
        assert everything() == before

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_second_outcome_of_an_attempt_is_not_accepted(self, kind):
        task = claimed()
        finish_attempts([success(task)])

        assert finish_attempts([KINDS[kind](task)]) == {}
        assert values(task, "status") == (Status.SUCCESSFUL,)


class TestLostReply:
    """A flush was accepted, but its reply never came: the worker asks what became of it."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_accepted_outcome_is_found_by_its_token(self, kind):
        outcome = KINDS[kind](claimed())
        accepted = finish_attempts([outcome])

        assert already_finished([outcome]) == accepted != {}

    @pytest.mark.parametrize("kind", KINDS)
    def test_running_task_was_not_accepted(self, kind):
        assert already_finished([KINDS[kind](claimed())]) == {}

    @pytest.mark.parametrize("kind", KINDS)
    def test_rescued_task_was_not_accepted(self, kind):
        worker = Worker.register()
        TaskFactory.create_batch(5)
        released, cancelled, parked, overdue, lost = claim_queue(worker, "default", 5)
        release_claims([released])
        set_aside_claims([parked], HeldFor.TYPE)
        cancelled.cancel(force=True)
        Task.objects.filter(pk=overdue.pk).update(deadline_at=DatabaseNow(-1))
        rescue_tasks()
        worker.deregister()
        rescue_tasks()
        outcomes = [KINDS[kind](task) for task in (released, parked, cancelled, overdue, lost)]

        assert finish_attempts(outcomes) == {}
        assert already_finished(outcomes) == {}

    def test_retry_that_was_claimed_again_is_found_by_its_history(self):
        outcome = retry(claimed())
        finish_attempts([outcome])
        Task.objects.run_now()
        claim()

        assert already_finished([outcome]) == {outcome.task.pk: Status.SCHEDULED}

    @pytest.mark.parametrize("next_move", ["run_now", "hold"])
    def test_retry_that_was_changed_since_is_found(self, next_move):
        outcome = retry(claimed())
        finish_attempts([outcome])
        getattr(Task.objects.all(), next_move)()

        assert already_finished([outcome]) == {outcome.task.pk: Status.SCHEDULED}


class TestText:
    """Said by a caller, not taken from an exception."""

    def test_text_is_made_storable(self):
        task = claimed()

        finish_attempts([plainly_failed(task, "a\x00b\udc80")])

        stored = Task.objects.get()
        assert stored.last_error == Attempt.objects.get().message == "a\ufffdb\\udc80"

    def test_too_long_text_is_cut(self):
        finish_attempts([plainly_failed(claimed(), "x" * 300_000)])

        attempt = Attempt.objects.get()
        assert len(attempt.message) == MAX_MESSAGE
        assert len(attempt.traceback) == len(Task.objects.get().last_error) == MAX_TEXT


class TestHistory:
    def test_history_has_the_values_of_the_outcome(self):
        task = claimed(attempts=3, token=8)

        finish_attempts([failure(task, duration=30, ended=time.monotonic() - 20)])

        attempt = Attempt.objects.annotate(
            started=SecondsSince("started_at"), finished=SecondsSince("finished_at")
        ).get()
        assert (attempt.task_id, attempt.token, attempt.number) == (task.pk, task.token, 4)
        assert attempt.worker == task.last_worker
        assert attempt.outcome == AttemptOutcome.FAILED
        assert (attempt.error_class, attempt.message, attempt.traceback) == (
            FAILURE.error_class,
            FAILURE.message,
            FAILURE.traceback,
        )
        assert attempt.error_fingerprint == FAILURE.fingerprint
        assert attempt.finished == pytest.approx(20, abs=10)
        assert attempt.started == pytest.approx(50, abs=10)

    def test_is_stored_with_the_outcome_or_the_outcome_is_not(self):
        """Kind of fault: two statements of one change, and only the first committed."""
        task = claimed()

        def refuse(run, sql, *args):
            if "bgtask_attempt" in sql:
                raise OperationalError("the server closed the connection")
            return run(sql, *args)

        with connection.execute_wrapper(refuse), pytest.raises(OperationalError):
            finish_attempts([failure(task)])

        assert values(task, "status") == (Status.RUNNING,)

    def test_of_the_same_attempt_is_stored_once(self):
        task = claimed()

        for _ in range(2):
            record_attempts("default", [attempt_of(failure(task), AttemptOutcome.FAILED)])

        assert Attempt.objects.get().token == task.token

    def test_history_has_a_row_for_each_attempt_without_success(self):
        first = claimed()
        finish_attempts([retry(first)])
        Task.objects.run_now()
        (second,) = claim()
        finish_attempts([retry(second)])
        Task.objects.run_now()
        (third,) = claim()

        finish_attempts([success(third)])

        expected = [(1, first.token), (2, second.token)]
        assert list(Attempt.objects.values_list("number", "token")) == expected


class TestBatch:
    def test_batch_has_the_same_result_as_single_writes_in_any_order(self):
        dice = random.Random(7)
        batch = self.batch()
        results = []
        for order in ("together", "one by one", "backwards", "shuffled"):
            Task.objects.all().delete()
            Worker.objects.all().delete()
            outcomes = self.claimed_again(batch)
            if order == "backwards":
                outcomes.reverse()
            if order == "shuffled":
                dice.shuffle(outcomes)

            if order == "one by one":
                accepted = {}
                for outcome in outcomes:
                    accepted |= finish_attempts([outcome])
            else:
                accepted = finish_attempts(outcomes)
            results.append(self.result(accepted, outcomes))

        assert results[0] == results[1] == results[2] == results[3]
        assert {status for status, *_ in results[0]} == {
            "RUNNING", "SUCCESSFUL", "FAILED", "SCHEDULED", "CANCELLED",
        }  # fmt: skip

    @staticmethod
    def batch():
        """Kind, cancel requested or not, fenced off or not: each with each."""
        return [
            (kind, cancel, stale)
            for kind in KINDS.values()
            for cancel in (False, True)
            for stale in (False, True)
        ]

    @staticmethod
    def claimed_again(batch):
        outcomes = []
        for kind, cancel, stale in batch:
            task = claimed()
            outcomes.append(kind(task, duration=0.5))
            if stale:
                release_claims([task])
                claim()
            if cancel:
                task.cancel()
        return outcomes

    @staticmethod
    def result(accepted, outcomes):
        """Row by row in order of ids, which differ from one round to the next, as tokens do."""
        told = {outcome.task.pk: outcome.task.token for outcome in outcomes}
        rows = Task.objects.order_by("pk").prefetch_related("history")
        return [
            (
                task.status,
                accepted.get(task.pk),
                task.token == told[task.pk],
                task.attempts,
                task.duration_ms,
                task.last_error,
                task.finished_at is None,
                [
                    (attempt.token == told[task.pk], attempt.number, attempt.outcome)
                    for attempt in task.history.all()
                ],
            )
            for task in rows
        ]


@pytest.mark.django_db(transaction=True)
class TestConcurrency:
    def test_concurrent_flushes_in_opposite_orders_lose_no_outcome(self):
        for _ in range(10):
            Task.objects.enqueue_many("tests.tasks.noop", (([n], {}) for n in range(100)))
            tasks = claim(100)
            outcomes = [KINDS[list(KINDS)[task.pk % 3]](task) for task in tasks]

            one, two = all_at_once(
                lambda outcomes=outcomes: persistently(outcomes),
                lambda outcomes=outcomes: persistently(outcomes[::-1]),
            )

            assert not one.keys() & two.keys()
            assert one | two == {outcome.task.pk: outcome.status for outcome in outcomes}
            for outcome in outcomes:
                assert values(outcome.task, "status") == (outcome.status,)
            assert Attempt.objects.count() == sum(outcome.kind is not None for outcome in outcomes)
            Task.objects.all().delete()


def persistently(outcomes):
    """Write as the completer does: repeat a write that failed for a temporary reason."""
    while True:
        try:
            return finish_attempts(outcomes)
        except OperationalError:
            time.sleep(0.01)
