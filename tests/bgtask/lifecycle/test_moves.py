"""
Test every action on a task of every status: only the documented transitions happen.

The module is long because each action is tested on each status.
"""

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
    take_snapshot,
)
from bgtask.lifecycle.finish import finish_attempts
from bgtask.lifecycle.promote import promote_due, unhold_expired, unhold_known
from bgtask.lifecycle.rescue import rescue_tasks
from bgtask.models import Attempt, Task
from bgtask.status import FINISHED, LIVE, TRANSITIONS, WAITING, HeldFor, Status
from tests.bgtask.lifecycle.locks import locked_by_another
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


# Each way to run an action, on one task that is in memory.
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
    """Yield the fields of a task of this status, in each way that an action treats differently."""
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


def test_transitions_in_the_code_match_the_design():
    assert {verb: (set(start), set(end)) for verb, (start, end) in TRANSITIONS.items()} == {
        verb: drawn(verb) for verb in DESIGN
    }


def test_each_status_is_waiting_running_or_finished():
    assert set(Status) == WAITING | {Status.RUNNING} | FINISHED
    assert WAITING | {Status.RUNNING} == LIVE
    assert not WAITING & FINISHED


@pytest.mark.parametrize("status", sorted(Status))
@pytest.mark.parametrize("verb", DESIGN)
def test_action_changes_only_tasks_whose_status_allows_it(verb, status):
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
    def test_requeue_clears_the_outcome_and_keeps_the_history(self, status):
        task = TaskFactory(
            status=status,
            attempts=3,
            crashes=2,
            token=9,
            cancel_requested=True,
            last_error="Oh",
            error_message="Oh",
        )
        Attempt.objects.create(task=task, token=9, number=3, finished_at=DatabaseNow())

        task.requeue()

        task.refresh_from_db()
        assert (task.crashes, task.cancel_requested, task.finished_at) == (0, False, None)
        assert (task.attempts, task.token, task.last_error) == (3, 10, "Oh")
        assert task.error_message == "Oh"
        assert task.history.count() == 1
        assert Task.objects.filter(run_at__gt=DatabaseNow(-10), run_at__lte=DatabaseNow()).exists()

    def test_requeue_grants_one_execution_if_attempts_are_used_up(self):
        TaskFactory(status=Status.FAILED, attempts=25).requeue()

        (task,) = claim_queue(WorkerFactory(), "default", 1)

        assert task.attempts == 26
        assert not task.has_attempts_left

    def test_requeue_with_reset_grants_all_attempts(self):
        TaskFactory(status=Status.FAILED, attempts=25).requeue(reset_attempts=True)

        (task,) = claim_queue(WorkerFactory(), "default", 1)

        assert task.attempts == 1
        assert task.has_attempts_left

    def test_requeue_can_spread_tasks_over_time(self):
        for number in range(20):
            TaskFactory(pk=1 + number * 500, status=Status.FAILED)

        Task.objects.requeue(spread=1000)

        assert Task.objects.scheduled().count() == 20
        assert not Task.objects.filter(run_at__gt=DatabaseNow(1000)).exists()
        assert Task.objects.filter(run_at__gt=DatabaseNow(500)).count() in range(8, 13)


class TestCancel:
    @pytest.mark.parametrize("status", sorted(WAITING))
    def test_cancel_finishes_waiting_tasks_at_once(self, status):
        task = TaskFactory(status=status)

        task.cancel()

        task.refresh_from_db()
        assert (task.status, task.held_for) == (Status.CANCELLED, None)
        assert Task.objects.filter(
            finished_at__gt=DatabaseNow(-10), finished_at__lte=DatabaseNow()
        ).exists()

    def test_cancel_requests_running_tasks_to_stop(self):
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
    def test_cancel_catches_tasks_that_leave_running_meanwhile(self, leave):
        task = TaskFactory(status=Status.RUNNING)

        with connection.execute_wrapper(after_the_first_statement(lambda: leave(task))):
            Task.objects.cancel()

        assert Task.objects.get().status == Status.CANCELLED

    def test_cancel_catches_tasks_that_are_claimed_meanwhile(self):
        TaskFactory()

        with connection.execute_wrapper(
            after_the_first_statement(lambda: claim_queue(a_worker(), "default", 1))
        ):
            Task.objects.cancel()

        task = Task.objects.get()
        assert task.status == Status.CANCELLED or task.cancel_requested

    def test_cancel_leaves_tasks_that_finished_meanwhile(self):
        """Kind of fault: MariaDB reads the ids of a queryset with a join before it updates."""
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
    def test_hold_stores_its_reason(self, held_for):
        TaskFactory()

        Task.objects.hold(held_for)

        assert Task.objects.get().held_for == held_for

    def test_unhold_leaves_tasks_held_for_another_reason(self):
        for_type = TaskFactory(status=Status.HELD, held_for=HeldFor.TYPE)
        unknown = TaskFactory(status=Status.HELD, held_for=HeldFor.UNKNOWN)
        by_operator = TaskFactory(status=Status.HELD, held_for=HeldFor.OPERATOR)

        assert unhold_known([for_type.task_name].__contains__) == 1
        assert set(Task.objects.held()) == {for_type, by_operator}
        assert unhold_expired() == 1
        assert set(Task.objects.held()) == {by_operator}
        assert set(Task.objects.ready()) == {for_type, unknown}


class TestPromote:
    def test_promotion_takes_the_longest_due_first_up_to_its_limit(self):
        later, sooner = (
            TaskFactory(status="SCHEDULED", run_at=DatabaseNow(-5)),
            TaskFactory(status="SCHEDULED", run_at=DatabaseNow(-9)),
        )

        assert promote_due(limit=1) == 1
        assert set(Task.objects.ready()) == {sooner}
        assert promote_due(limit=5) == 1
        assert set(Task.objects.ready()) == {sooner, later}

    def test_promotion_does_not_change_run_at(self):
        task = TaskFactory(status="SCHEDULED", run_at=DatabaseNow(-5))

        promote_due()

        assert Task.objects.get().run_at == task.run_at

    def test_run_now_makes_a_task_due_now(self):
        TaskFactory(status="SCHEDULED")

        Task.objects.run_now()

        assert Task.objects.filter(run_at__gt=DatabaseNow(-10), run_at__lte=DatabaseNow()).exists()

    def test_is_due_again_when_the_nearest_is(self):
        for seconds in (7200, 3600, 10_800):
            TaskFactory(status="SCHEDULED", run_at=DatabaseNow(seconds))

        assert take_snapshot().next_due == pytest.approx(3600, abs=60)

    def test_never_makes_a_task_ready_before_it_is_due(self):
        for seconds in (0, 0.1, 0.3, 1, 3, 10, 30):
            TaskFactory(status="SCHEDULED", run_at=DatabaseNow(seconds))

        promote_due()

        # The clock has gone on since, so what was due then is due now.
        assert Task.objects.ready().exists()
        assert not Task.objects.ready().filter(run_at__gt=DatabaseNow()).exists()

    @pytest.mark.vendor("postgresql", "mysql")
    @pytest.mark.django_db(transaction=True)
    def test_passes_over_a_locked_task_and_does_not_wait_for_it(self):
        locked, free = (
            TaskFactory(status="SCHEDULED", run_at=DatabaseNow(-9)),
            TaskFactory(status="SCHEDULED", run_at=DatabaseNow(-5)),
        )

        with locked_by_another(locked):
            assert promote_due() == 1

        assert set(Task.objects.ready()) == {free}


class TestDiscard:
    def test_deletes_everything_but_what_runs(self):
        """Kind of fault: a row is deleted while its worker runs the task."""
        for status in Status:
            TaskFactory(status=status)

        assert Task.objects.discard() == len(Status) - 1

        assert Task.objects.get().status == Status.RUNNING


@pytest.mark.parametrize(
    ("column", "before", "change", "after"),
    [
        ("priority", 1, lambda tasks: tasks.reprioritise(7), 7),
        ("queue", "mail", lambda tasks: tasks.move("post"), "post"),
        ("attempts", 3, lambda tasks: tasks.reset_attempts(), 0),
        ("crashes", 1, lambda tasks: tasks.reset_attempts(), 0),
    ],
)
def test_only_what_waits_is_changed(column, before, change, after):
    """Kind of fault: a row changes while its worker runs the task, or after its end."""
    for status in Status:
        TaskFactory(status=status, **{column: before})

    assert change(Task.objects.all()) == len(WAITING)

    values = dict(Task.objects.values_list("status", column))
    assert values == {status: after if status in WAITING else before for status in Status}
