"""
Test that only tasks of dead workers and overdue tasks are rescued, and each once.

The module is long because each cause of a rescue has its own row in the design.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import pytest
from django.db import OperationalError, connection

from bgtask.db import DatabaseNow, SecondsSince
from bgtask.lifecycle import rescue
from bgtask.lifecycle.claim import claim_queue, claim_these
from bgtask.lifecycle.finish import finish_attempts
from bgtask.lifecycle.rescue import rescue_tasks
from bgtask.models import Attempt, Task, Worker
from bgtask.status import AttemptOutcome, Status
from tests.bgtask.lifecycle.locks import locked_by_another
from tests.bgtask.lifecycle.outcomes import failure, retry, success
from tests.factories import TaskFactory, WorkerFactory
from tests.threads import all_at_once

pytestmark = pytest.mark.django_db


class Case(NamedTuple):
    """A running task, as it stands when it is taken back; this attempt is counted already."""

    max_attempts: int
    attempts: int
    crashes: int
    cancel_requested: bool


class Result(NamedTuple):
    status: str
    attempts: int
    crashes: int


def lost(case: Case, max_crashes: int) -> Result:
    """Its worker died. At the first time the task may not even have started."""
    if case.crashes == 0:
        again = "CANCELLED" if case.cancel_requested else "READY"
        return Result(again, case.attempts - 1, 1)
    if case.crashes + 1 == max_crashes or case.attempts >= case.max_attempts:
        return Result("FAILED", case.attempts, case.crashes + 1)
    again = "CANCELLED" if case.cancel_requested else "READY"
    return Result(again, case.attempts, case.crashes + 1)


def interrupted(case: Case, max_crashes: int) -> Result:
    """Its worker was told to stop and left it: neither a crash nor an attempt."""
    again = "CANCELLED" if case.cancel_requested else "READY"
    return Result(again, case.attempts - 1, case.crashes)


def overdue(case: Case, max_crashes: int) -> Result:
    """Return the result for a task that ran longer than allowed.

    No crash is counted, but the attempt is.
    """
    if case.attempts >= case.max_attempts:
        return Result("FAILED", case.attempts, case.crashes)
    again = "CANCELLED" if case.cancel_requested else "SCHEDULED"
    return Result(again, case.attempts, case.crashes)


def cases(max_crashes: int) -> list[Case]:
    return [
        Case(max_attempts, attempts, crashes, cancel_requested)
        for max_attempts in (1, 2, 3)
        # One more than allowed is what an operator's requeue grants.
        for attempts in range(1, max_attempts + 2)
        for crashes in range(max_crashes)
        for cancel_requested in (False, True)
    ]


def running(worker=None, **fields):
    holder = {"locked_by": worker} if worker else {}
    return TaskFactory(status=Status.RUNNING, **holder, **fields)


def circumstances():
    """Return the columns of a running task that a rescue takes, for each reason of a rescue."""
    return {
        "lost": {"locked_by": WorkerFactory(dead=True)},
        "interrupted": {"locked_by": WorkerFactory(stopped=True, dead=True)},
        "overdue": {"deadline_at": DatabaseNow(-1)},
    }


def everything():
    return list(Task.objects.order_by("pk").values()), list(Attempt.objects.order_by("pk").values())


class TestEachCase:
    @pytest.mark.parametrize("max_crashes", [2, 3])
    @pytest.mark.parametrize("oracle", [lost, interrupted, overdue])
    def test_rescued_task_ends_as_the_design_requires(self, settings, oracle, max_crashes):
        settings.BGTASK = {"MAX_CRASHES": max_crashes}
        changes = circumstances()[oracle.__name__]
        tasks = {
            running(token=5, **case._asdict(), **changes).pk: case for case in cases(max_crashes)
        }

        number = rescue_tasks()

        rows = Task.objects.in_bulk(tasks)
        found = {
            case: Result(rows[pk].status, rows[pk].attempts, rows[pk].crashes)
            for pk, case in tasks.items()
        }
        assert found == {case: oracle(case, max_crashes) for case in tasks.values()}
        assert number == len(tasks)
        for row in rows.values():
            assert row.token == 6
            assert (row.locked_by, row.locked_at, row.deadline_at) == (None, None, None)
            assert (row.finished_at is not None) == (row.status in ("FAILED", "CANCELLED"))

    @pytest.mark.parametrize("max_crashes", [2, 3])
    @pytest.mark.parametrize(
        ("reason", "outcome"),
        [
            ("lost", AttemptOutcome.LOST),
            ("interrupted", AttemptOutcome.INTERRUPTED),
            ("overdue", AttemptOutcome.TIMED_OUT),
        ],
    )
    def test_rescue_writes_a_row_of_history(self, settings, reason, outcome, max_crashes):
        settings.BGTASK = {"MAX_CRASHES": max_crashes}
        changes = circumstances()[reason]
        tasks = [running(token=5, **case._asdict(), **changes) for case in cases(max_crashes)]

        rescue_tasks()

        history = {attempt.task_id: attempt for attempt in Attempt.objects.all()}
        assert history.keys() == {task.pk for task in tasks}
        for task in tasks:
            attempt = history[task.pk]
            assert (attempt.token, attempt.number) == (5, task.attempts)
            assert (attempt.outcome, attempt.worker) == (outcome, task.last_worker)
            assert attempt.started_at == task.locked_at
            assert attempt.message
            assert attempt.error_fingerprint


class TestTimedOut:
    @pytest.mark.parametrize("attempts", [1, 2, 5])
    def test_timed_out_task_waits_as_after_a_failure(self, attempts):
        running(attempts=attempts, deadline_at=DatabaseNow(-1))

        rescue_tasks()

        waited = Task.objects.annotate(since=SecondsSince("run_at")).get().since
        assert waited == pytest.approx(-(attempts**4 + 5), abs=4)

    def test_error_of_a_timed_out_task_names_its_limit(self):
        running(max_run_time=7.5, deadline_at=DatabaseNow(-1))

        rescue_tasks()

        task = Task.objects.get()
        assert "7.5 seconds" in task.last_error
        assert task.error_message == task.last_error == Attempt.objects.get().message
        assert task.error_class == "bgtask.TimedOut"

    def test_timed_out_task_of_a_dead_worker_is_lost(self):
        running(WorkerFactory(dead=True), deadline_at=DatabaseNow(-1))

        rescue_tasks()

        assert Attempt.objects.get().outcome == AttemptOutcome.LOST


class TestLost:
    def test_lost_task_keeps_its_run_at(self):
        task = running(WorkerFactory(dead=True))

        rescue_tasks()

        assert Task.objects.get().run_at == task.run_at

    def test_error_of_a_lost_task_names_the_reason(self):
        running(WorkerFactory(dead=True, label="tower:7"))

        rescue_tasks(reason="killed by signal 9")

        assert "tower:7" in Attempt.objects.get().message
        assert "killed by signal 9" in Attempt.objects.get().message

    def test_lost_task_that_will_run_again_has_no_error(self):
        running(WorkerFactory(dead=True))

        rescue_tasks()

        task = Task.objects.get()
        assert (task.last_error, task.error_message) == ("", None)

    def test_suspect_that_fails_names_the_reason(self, settings):
        settings.BGTASK = {"MAX_CRASHES": 2}
        running(WorkerFactory(dead=True), crashes=1)

        rescue_tasks()

        assert Task.objects.get().error_class == "bgtask.WorkerLost"


class TestInterrupted:
    def test_task_of_a_stopping_worker_is_interrupted(self):
        worker = WorkerFactory()
        running(worker)
        worker.record_stop()
        worker.deregister()

        rescue_tasks(reason="killed by signal 9")

        attempt = Attempt.objects.get()
        assert attempt.outcome == AttemptOutcome.INTERRUPTED
        assert attempt.error_class == "bgtask.Interrupted"
        assert worker.label in attempt.message
        assert "killed by signal 9" in attempt.message

    def test_interruption_does_not_change_the_crashes(self):
        stopped = WorkerFactory(stopped=True, dead=True)
        fine, suspect = running(stopped), running(stopped, crashes=1)

        rescue_tasks()

        crashes = dict(Task.objects.values_list("pk", "crashes"))
        assert crashes == {fine.pk: 0, suspect.pk: 1}

    def test_task_past_its_deadline_is_not_interrupted(self):
        running(WorkerFactory(stopped=True, dead=True), deadline_at=DatabaseNow(-1))

        rescue_tasks()

        assert Attempt.objects.get().outcome == AttemptOutcome.TIMED_OUT

    def test_task_is_lost_after_too_many_interruptions(self, settings):
        settings.BGTASK = {"MAX_ATTEMPTS": 2, "MAX_CRASHES": 2}
        task = running(WorkerFactory(stopped=True, dead=True))
        crashes = []
        for _ in range(4):
            rescue_tasks()
            task.refresh_from_db()
            crashes.append(task.crashes)
            claim_these(Task.objects.ready(), WorkerFactory(stopped=True))
            Worker.objects.declare_dead()

        assert crashes == [0, 0, 1, 2]
        assert task.status == Status.FAILED

    def test_interrupted_and_lost_tasks_of_one_page_are_distinguished(self):
        stopped, killed = WorkerFactory(stopped=True, dead=True), WorkerFactory(dead=True)
        left, lost = running(stopped), running(killed)

        rescue_tasks()

        found = dict(Attempt.objects.values_list("task", "outcome"))
        assert found == {left.pk: AttemptOutcome.INTERRUPTED, lost.pk: AttemptOutcome.LOST}


class TestOtherTasks:
    @pytest.mark.parametrize(
        "holder",
        [
            {},
            {"stopped": True},
            {"silent": True},  # The worker must be declared dead first.
        ],
        ids=["alive", "stopping", "silent"],
    )
    def test_tasks_of_a_living_worker_are_left_alone(self, holder):
        running(WorkerFactory(**holder))
        before = everything()

        assert rescue_tasks() == 0
        assert everything() == before

    @pytest.mark.parametrize("status", sorted(set(Status) - {Status.RUNNING}))
    def test_tasks_that_are_not_running_are_left_alone(self, status):
        WorkerFactory(dead=True)
        TaskFactory(status=status, crashes=1)
        before = everything()

        assert rescue_tasks() == 0
        assert everything() == before

    def test_other_tasks_are_left_alone(self):
        alive, dead = WorkerFactory(), WorkerFactory(dead=True)
        kept = running(alive)
        running(dead)
        too = running(alive)

        assert rescue_tasks() == 1
        assert set(Task.objects.running()) == {kept, too}

    def test_rescue_respects_the_queryset(self):
        dead = WorkerFactory(dead=True)
        wanted, other = running(dead), running(dead)

        assert rescue_tasks(Task.objects.filter(pk=wanted.pk)) == 1
        assert set(Task.objects.running()) == {other}


class TestReports:
    def test_pages_committed_before_an_error_are_reported(self, monkeypatch):
        monkeypatch.setattr(rescue, "PAGE", 2)
        dead = WorkerFactory(dead=True)
        first = [running(dead).pk for _ in range(2)]
        running(dead)
        told = []

        def break_down_on_the_second_page(execute, sql, params, many, context):
            if told and sql.startswith("INSERT"):
                raise OperationalError("the server closed the connection")
            return execute(sql, params, many, context)

        def tell(outcomes):
            assert Task.objects.running().count() == 1
            told.extend(outcome.task.pk for outcome in outcomes)

        with (
            connection.execute_wrapper(break_down_on_the_second_page),
            pytest.raises(OperationalError),
        ):
            rescue_tasks(tell=tell)

        assert told == first


class TestForce:
    def test_forced_cancel_ends_a_running_task_and_writes_history(self):
        task = running(token=3, attempts=2)

        number = Task.objects.cancel(force=True)

        task.refresh_from_db()
        attempt = Attempt.objects.get()
        assert number == 1
        assert (task.status, task.token, task.attempts) == (Status.CANCELLED, 4, 2)
        assert task.finished_at is not None
        assert (attempt.outcome, attempt.token) == (AttemptOutcome.CANCELLED, 3)

    def test_forced_cancel_ends_a_task_with_a_cancel_request(self):
        running(cancel_requested=True)

        assert Task.objects.filter(cancel_requested=True).cancel(force=True) == 1
        assert Task.objects.get().status == Status.CANCELLED

    def test_forced_cancel_needs_no_earlier_request(self):
        running()

        assert Task.objects.filter(cancel_requested=False).cancel(force=True) == 1
        assert Task.objects.get().status == Status.CANCELLED

    def test_outcome_after_a_forced_cancel_is_dropped(self):
        task = running()
        task.cancel(force=True)

        assert finish_attempts([success(task)]) == {}
        assert Task.objects.get().status == Status.CANCELLED


@pytest.mark.django_db(transaction=True)
class TestConcurrency:
    def test_two_rescuers_rescue_each_task_once(self):
        dead = WorkerFactory(dead=True)
        Task.objects.enqueue_many("tests.tasks.noop", (([n], {}) for n in range(450)))
        claim_queue(dead, "default", 450)
        alive = WorkerFactory()
        TaskFactory.create_batch(5)
        claim_queue(alive, "default", 5)

        numbers = all_at_once(rescue_tasks, rescue_tasks, rescue_tasks)

        assert sum(numbers) == 450
        assert set(Task.objects.ready().values_list("attempts", "crashes")) == {(0, 1)}
        assert Task.objects.running().count() == 5
        assert Attempt.objects.count() == 450

    @pytest.mark.vendor("postgresql", "mysql")
    def test_a_locked_task_is_passed_over_and_not_waited_for(self):
        dead = WorkerFactory(dead=True)
        locked, free = TaskFactory.create_batch(2, status=Status.RUNNING, locked_by=dead)

        with locked_by_another(locked):
            assert rescue_tasks() == 1

        assert set(Task.objects.ready()) == {free}
        assert rescue_tasks() == 1

    @pytest.mark.parametrize("outcome", [success, failure, retry])
    def test_finish_before_the_rescue_is_kept(self, outcome):
        worker = WorkerFactory()
        TaskFactory()
        (task,) = claim_queue(worker, "default", 1)
        Worker.objects.declare_dead()
        accepted = finish_attempts([outcome(task)])

        assert accepted
        assert rescue_tasks() == 0
        assert Task.objects.get().status == accepted[task.pk]

    @pytest.mark.parametrize("outcome", [success, failure, retry])
    def test_finish_after_the_rescue_is_refused(self, outcome):
        worker = WorkerFactory()
        TaskFactory()
        (task,) = claim_queue(worker, "default", 1)
        Worker.objects.declare_dead()
        rescue_tasks()
        before = everything()

        assert finish_attempts([outcome(task)]) == {}
        assert everything() == before

    @pytest.mark.parametrize("outcome", [success, failure, retry])
    def test_finish_between_search_and_rescue_is_kept(self, outcome):
        TaskFactory.create_batch(2)
        finished, taken = claim_queue(WorkerFactory(), "default", 2)
        told = finished.token
        assert taken.token == told
        Worker.objects.declare_dead()

        def finish_after_the_first_statement(execute, sql, params, many, context):
            result = execute(sql, params, many, context)
            if not accepted:
                accepted.extend(all_at_once(lambda: finish_attempts([outcome(finished)])))
            return result

        accepted: list[dict[int, str]] = []
        with connection.execute_wrapper(finish_after_the_first_statement):
            number = rescue_tasks()

        finished.refresh_from_db()
        taken.refresh_from_db()
        assert number == 1
        assert accepted == [{finished.pk: finished.status}]
        assert (finished.token, finished.crashes) == (told, 0)
        assert (taken.status, taken.token, taken.crashes) == (Status.READY, told + 1, 1)

    def test_concurrent_ends_leave_each_claim_one_end(self):
        for _, order in product(range(5), (1, -1)):
            Task.objects.enqueue_many("tests.tasks.noop", (([n], {}) for n in range(60)))
            tasks = claim_queue(WorkerFactory(), "default", 60)
            Worker.objects.declare_dead()
            batches = [tasks[start : start + 10][::order] for start in range(0, 60, 10)][::order]

            accepted, rescued = all_at_once(
                lambda batches=batches: {
                    pk
                    for batch in batches
                    for pk in finish_attempts([success(task) for task in batch])
                },
                rescue_tasks,
            )

            rescued += rescue_tasks()
            assert set(Task.objects.succeeded().values_list("pk", flat=True)) == accepted
            assert Task.objects.ready().count() == rescued == 60 - len(accepted)
            assert set(Attempt.objects.values_list("task", flat=True)) == (
                {task.pk for task in tasks} - accepted
            )
            Task.objects.all().delete()
