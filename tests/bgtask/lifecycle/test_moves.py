"""Every verb on a task of every status: the moves that are drawn happen, and no others."""

from __future__ import annotations

import pytest
from django.db import connection

from bgtask.db import DatabaseNow
from bgtask.db.sql import TOKEN_JUMP_MAX
from bgtask.lifecycle.claim import (
    claim_queue,
    claim_suspect,
    claim_these,
    release_claims,
    set_aside_claims,
)
from bgtask.lifecycle.finish import finish_attempts
from bgtask.lifecycle.promote import promote_due, unhold_expired, unhold_known
from bgtask.lifecycle.rescue import rescue_tasks
from bgtask.models import Attempt, Task
from bgtask.status import FINISHED, LIVE, TRANSITIONS, WAITING, HeldFor, Status
from tests.bgtask.lifecycle.outcomes import failure, retry, success
from tests.factories import TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db

# The table of the design, as people read it. Where a verb leads to more than one status, it
# depends on the task: its run_at, its attempts, whether its cancel was requested.
DESIGN = {
    "promote": "SCHEDULED → READY",
    "claim": "READY → RUNNING",
    "release": "RUNNING → READY CANCELLED",
    "set_aside": "RUNNING → HELD CANCELLED",
    "succeed": "RUNNING → SUCCESSFUL",
    "fail": "RUNNING → FAILED",
    "retry": "RUNNING → SCHEDULED CANCELLED",
    "rescue": "RUNNING → READY SCHEDULED FAILED CANCELLED",
    "hold": "READY SCHEDULED → HELD",
    "unhold": "HELD → READY SCHEDULED",
    "cancel": "SCHEDULED READY HELD RUNNING → CANCELLED",
    "requeue": "SUCCESSFUL FAILED CANCELLED → READY SCHEDULED",
}


def a_worker():
    return WorkerFactory()


# Each way there is to say a verb, of one task that somebody holds in memory.
WAYS = {
    "promote": [
        lambda task: promote_due(),
        lambda task: Task.objects.run_now(),
    ],
    "claim": [
        lambda task: claim_queue(a_worker(), task.queue, 1),
        lambda task: claim_suspect(a_worker()),
        lambda task: claim_these(Task.objects.ready(), a_worker()),
    ],
    "release": [lambda task: release_claims([task])],
    "set_aside": [lambda task: set_aside_claims([task], HeldFor.TYPE)],
    "succeed": [lambda task: finish_attempts([success(task)])],
    "fail": [lambda task: finish_attempts([failure(task)])],
    "retry": [lambda task: finish_attempts([retry(task)])],
    "rescue": [lambda task: rescue_tasks()],
    "hold": [lambda task: task.hold()],
    "unhold": [
        lambda task: task.unhold(),
        lambda task: unhold_known([task.task_name].__contains__),
        lambda task: unhold_expired(),
    ],
    "cancel": [lambda task: task.cancel(), lambda task: task.cancel(force=True)],
    "requeue": [
        lambda task: task.requeue(),
        lambda task: task.requeue(reset_attempts=True),
        lambda task: Task.objects.requeue(spread=600),
    ],
}
RAISE_THE_TOKEN = {"release", "set_aside", "rescue", "requeue"}


def circumstances(status):
    """Yield the fields of a task of this status, in each way that makes a difference to a verb."""
    if status == Status.RUNNING:
        for cancel_requested in (False, True):
            for crashes in (0, 1, 2):
                fields = {"cancel_requested": cancel_requested, "crashes": crashes}
                yield {**fields, "attempts": 1, "locked_by": WorkerFactory(dead=True)}
                yield {**fields, "attempts": 25, "deadline_at": DatabaseNow(-1)}
                yield {**fields, "attempts": 1, "deadline_at": DatabaseNow(-1)}
    elif status == Status.HELD:
        for held_for in HeldFor:
            yield {"held_for": held_for, "run_at": DatabaseNow(-60)}
            yield {"held_for": held_for, "run_at": DatabaseNow(3600)}
    elif status == Status.SCHEDULED:
        yield {"run_at": DatabaseNow(-60)}
        yield {"run_at": DatabaseNow(3600)}
    else:
        yield {"crashes": 0}
        yield {"crashes": 1}


def drawn(verb):
    start, end = DESIGN[verb].split(" → ")
    return set(start.split()), set(end.split())


def test_the_moves_in_the_code_are_those_of_the_design():
    assert {verb: (set(start), set(end)) for verb, (start, end) in TRANSITIONS.items()} == {
        verb: drawn(verb) for verb in DESIGN
    }


def test_the_statuses_are_of_three_kinds():
    assert set(Status) == WAITING | {Status.RUNNING} | FINISHED
    assert WAITING | {Status.RUNNING} == LIVE
    assert not WAITING & FINISHED


@pytest.mark.parametrize("status", sorted(Status))
@pytest.mark.parametrize("verb", DESIGN)
def test_a_verb_moves_what_it_may_and_nothing_else(verb, status):
    reached = set()
    for way in WAYS[verb]:
        for fields in circumstances(status):
            task = TaskFactory(status=status, **fields)
            before = Task.objects.values().get()

            told = way(task)

            after = Task.objects.values().get()
            if status not in drawn(verb)[0]:
                assert not told
                assert after == before
                assert not Attempt.objects.exists()
            if after["status"] != status:
                assert told
                reached.add(after["status"])
            rise = after["token"] - before["token"]
            if verb == "claim" and after["status"] != before["status"]:
                assert 1 <= rise <= TOKEN_JUMP_MAX
            else:
                assert rise == expected_rise(verb, before, after)
            task.delete()

    start, end = drawn(verb)
    assert reached == (end if status in start else set())


def expected_rise(verb, before, after):
    if after["status"] == before["status"]:
        return 0
    by_force = verb == "cancel" and before["status"] == Status.RUNNING
    return int(verb in RAISE_THE_TOKEN or by_force)


class TestRequeue:
    @pytest.mark.parametrize("status", sorted(FINISHED))
    def test_wipes_the_slate_but_keeps_what_happened(self, status):
        task = TaskFactory(
            status=status, attempts=3, crashes=2, token=9, cancel_requested=True, last_error="Oh"
        )
        Attempt.objects.create(task=task, token=9, number=3, finished_at=DatabaseNow())

        task.requeue()

        task.refresh_from_db()
        assert (task.crashes, task.cancel_requested, task.finished_at) == (0, False, None)
        assert (task.attempts, task.token, task.last_error) == (3, 10, "Oh")
        assert task.history.count() == 1
        assert Task.objects.filter(run_at__gt=DatabaseNow(-10), run_at__lte=DatabaseNow()).exists()

    def test_grants_one_more_execution_where_all_were_used_up(self):
        TaskFactory(status=Status.FAILED, attempts=25).requeue()

        (task,) = claim_queue(WorkerFactory(), "default", 1)

        assert task.attempts == 26
        assert not task.has_attempts_left

    def test_grants_all_of_them_by_resetting(self):
        TaskFactory(status=Status.FAILED, attempts=25).requeue(reset_attempts=True)

        (task,) = claim_queue(WorkerFactory(), "default", 1)

        assert task.attempts == 1
        assert task.has_attempts_left

    def test_spreads_many_over_some_time(self):
        for number in range(20):
            TaskFactory(pk=1 + number * 500, status=Status.FAILED)

        Task.objects.requeue(spread=1000)

        assert Task.objects.scheduled().count() == 20
        assert not Task.objects.filter(run_at__gt=DatabaseNow(1000)).exists()
        assert Task.objects.filter(run_at__gt=DatabaseNow(500)).count() in range(8, 13)


class TestCancel:
    @pytest.mark.parametrize("status", sorted(WAITING))
    def test_what_waits_is_finished_at_once(self, status):
        task = TaskFactory(status=status)

        task.cancel()

        task.refresh_from_db()
        assert (task.status, task.held_for) == (Status.CANCELLED, None)
        assert Task.objects.filter(
            finished_at__gt=DatabaseNow(-10), finished_at__lte=DatabaseNow()
        ).exists()

    def test_what_runs_is_asked_to_stop_and_goes_on(self):
        task = TaskFactory(status=Status.RUNNING)

        assert task.cancel()

        task.refresh_from_db()
        assert (task.status, task.cancel_requested, task.token) == (Status.RUNNING, True, 1)

    @pytest.mark.parametrize(
        "leave",
        [
            lambda task: release_claims([task]),
            lambda task: finish_attempts([retry(task)]),
            lambda task: set_aside_claims([task], HeldFor.TYPE),
        ],
        ids=["released", "retried", "parked"],
    )
    def test_what_leaves_running_meanwhile_does_not_get_away(self, leave):
        task = TaskFactory(status=Status.RUNNING)

        with connection.execute_wrapper(after_the_first_statement(lambda: leave(task))):
            Task.objects.cancel()

        assert Task.objects.get().status == Status.CANCELLED

    def test_what_is_claimed_meanwhile_does_not_get_away(self):
        TaskFactory()

        with connection.execute_wrapper(
            after_the_first_statement(lambda: claim_queue(a_worker(), "default", 1))
        ):
            Task.objects.cancel()

        task = Task.objects.get()
        assert task.status == Status.CANCELLED or task.cancel_requested

    def test_what_has_finished_meanwhile_is_left_as_it_is(self):
        """Chosen by way of another table, as MariaDB does before it updates."""
        task = TaskFactory(status=Status.RUNNING)

        with connection.execute_wrapper(
            after_the_first_statement(lambda: finish_attempts([success(task)]))
        ):
            Task.objects.filter(locked_by__pid=task.locked_by.pid).cancel()

        finished = Task.objects.get()
        assert finished.status == Status.SUCCESSFUL
        assert finished.finished_at is not None


def after_the_first_statement(do):
    done = []

    def execute(run, *args):
        result = run(*args)
        if not done:
            done.append(True)
            do()
        return result

    return execute


class TestHold:
    @pytest.mark.parametrize("held_for", HeldFor)
    def test_says_for_what(self, held_for):
        TaskFactory()

        Task.objects.hold(held_for)

        assert Task.objects.get().held_for == held_for

    def test_what_is_held_for_one_reason_is_not_let_go_for_another(self):
        for_type = TaskFactory(status=Status.HELD, held_for=HeldFor.TYPE)
        unknown = TaskFactory(status=Status.HELD, held_for=HeldFor.UNKNOWN)
        by_operator = TaskFactory(status=Status.HELD, held_for=HeldFor.OPERATOR)

        assert unhold_known([for_type.task_name].__contains__) == 1
        assert set(Task.objects.held()) == {for_type, by_operator}
        assert unhold_expired() == 1
        assert set(Task.objects.held()) == {by_operator}
        assert set(Task.objects.ready()) == {for_type, unknown}


class TestPromote:
    def test_takes_the_longest_due_first_and_no_more_than_its_limit(self):
        later, sooner = (
            TaskFactory(status="SCHEDULED", run_at=DatabaseNow(-5)),
            TaskFactory(status="SCHEDULED", run_at=DatabaseNow(-9)),
        )

        assert promote_due(limit=1) == 1
        assert set(Task.objects.ready()) == {sooner}
        assert promote_due(limit=5) == 1
        assert set(Task.objects.ready()) == {sooner, later}

    def test_leaves_run_at_as_it_was_so_that_the_wait_is_known(self):
        task = TaskFactory(status="SCHEDULED", run_at=DatabaseNow(-5))

        promote_due()

        assert Task.objects.get().run_at == task.run_at

    def test_run_now_makes_it_due_now(self):
        TaskFactory(status="SCHEDULED")

        Task.objects.run_now()

        assert Task.objects.filter(run_at__gt=DatabaseNow(-10), run_at__lte=DatabaseNow()).exists()
