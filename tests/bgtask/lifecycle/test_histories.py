"""
Test that the database matches the protocol after any steps in any order.

The module is long because the state machine lists every step and every invariant.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bgtask.db import DatabaseNow
from bgtask.lifecycle.claim import claim_queue, claim_suspect, release_claims, set_aside_claims
from bgtask.lifecycle.finish import finish_attempts
from bgtask.lifecycle.promote import promote_due
from bgtask.lifecycle.rescue import rescue_tasks
from bgtask.models import Attempt, Task, Worker
from bgtask.status import HeldFor
from tests.bgtask.lifecycle.expectation import MAX_ATTEMPTS, MAX_CRASHES, Row
from tests.bgtask.lifecycle.outcomes import failure, retry, success
from tests.factories import WorkerFactory
from tests.system.protocol.model import FINISHED

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

WORKERS = st.integers(0, 1)
CHOSEN = st.integers(0, 1_000)
MOSTLY = st.integers(0, 4).map(bool)


def pick(chosen, candidates):
    return candidates[chosen % len(candidates)]


@dataclass(eq=False)
class Claim:
    """What a worker has in its memory, be it out of date."""

    task: Task
    started: bool = False
    given_back: bool = False


class Histories(RuleBasedStateMachine):
    tasks = Bundle("tasks")

    def __init__(self):
        super().__init__()
        for model in (Attempt, Task, Worker):
            model.objects.all().delete()
        self.rows: dict[int, Row] = {}
        self.workers = [WorkerFactory(), WorkerFactory()]
        self.dead: set[int] = set()
        self.claims: list[Claim] = []
        self.settled: set[tuple[int, int]] = set()
        self.tokens: dict[int, int] = {}
        self.ends: dict[int, tuple[str, int]] = {}

    # Enqueue, promote

    @initialize(target=tasks)
    def enqueue_some(self):
        return multiple(*(self._enqueue(priority=number % 2, later=False) for number in range(3)))

    @precondition(lambda self: len(self.rows) < 6)
    @rule(target=tasks, priority=st.integers(0, 1), later=st.booleans())
    def enqueue(self, priority, later):
        return self._enqueue(priority=priority, later=later)

    def _enqueue(self, *, priority, later):
        task = Task.objects.enqueue(
            "tests.tasks.noop",
            max_attempts=MAX_ATTEMPTS,
            priority=priority,
            schedule=3600 if later else None,
        )
        self.rows[task.pk] = Row("SCHEDULED" if later else "READY", due=not later)
        return task.pk

    @precondition(lambda self: self.has("SCHEDULED"))
    @rule(chosen=CHOSEN)
    def time_comes(self, chosen):
        pk = self.one_of(chosen, "SCHEDULED")
        Task.objects.filter(pk=pk, run_at__gt=DatabaseNow()).update(run_at=DatabaseNow(-1))
        self.rows[pk].due = True
        due = [row for row in self.rows.values() if row.status == "SCHEDULED" and row.due]

        assert promote_due() == len(due)

        for row in due:
            row.status = "READY"

    # Claim, start, and the ways out

    @precondition(lambda self: self.has("READY"))
    @rule(number=WORKERS, limit=st.integers(1, 3), heard=MOSTLY)
    def claim(self, number, limit, heard):
        worker = self.workers[number]
        expected = list(
            Task.objects.ready().filter(crashes=0).order_by("-priority", "run_at", "pk")[:limit]
        )

        claimed = claim_queue(worker, "default", limit)

        assert [task.pk for task in claimed] == [task.pk for task in expected]
        self._claimed(worker, claimed, heard=heard)

    @precondition(lambda self: any(row.crashes for row in self.rows.values()))
    @rule(number=WORKERS)
    def claim_suspect(self, number):
        worker = self.workers[number]

        claimed = claim_suspect(worker)

        ready = [row for row in self.rows.values() if row.status == "READY"]
        assert len(claimed) == any(row.crashes for row in ready)
        self._claimed(worker, claimed)

    def _claimed(self, worker, claimed, *, heard=True):
        # One random jump for all that are claimed together.
        assert len({task.token - self.rows[task.pk].token for task in claimed}) <= 1
        for task in claimed:
            row = self.rows[task.pk]
            assert row.status == "READY"
            row.claim(worker.pk, task.token)
            assert (task.token, task.attempts) == (row.token, row.attempts)
        # Or the reply was lost, and the tasks are in no worker's memory.
        self.claims += [Claim(task) for task in claimed if heard]

    @precondition(lambda self: self.unstarted())
    @rule(chosen=CHOSEN)
    def start(self, chosen):
        """Nothing is written. A worker that was declared dead may still flush."""
        self._start(pick(chosen, self.unstarted()))

    def _start(self, claim):
        if not claim.started:
            claim.started = True
            self.rows[claim.task.pk].executions += 1

    @precondition(lambda self: self.unstarted())
    @rule(chosen=CHOSEN, park=st.booleans())
    def give_back(self, chosen, park):
        claim = pick(chosen, self.unstarted())
        claim.given_back = True
        row = self.rows[claim.task.pk]
        ours = row.is_held_with(claim.task.token)

        if park:
            number = set_aside_claims([claim.task], HeldFor.TYPE)
        else:
            number = release_claims([claim.task])

        assert number == ours
        if ours:
            self.settle(claim.task.pk, claim.task.token)
            row.return_claims("HELD" if park else "READY")

    @precondition(lambda self: self.startable())
    @rule(some=st.lists(st.tuples(CHOSEN, st.booleans()), min_size=1, max_size=4))
    def finish(self, some):
        """Start and finish some claims.

        Some are finished a second time or late, and some have been taken back by then.
        """
        ends = [(pick(chosen, self.startable()), succeeds) for chosen, succeeds in some]
        for claim, _ in ends:
            self._start(claim)
        by_key = {(claim.task.pk, claim.task.token): (claim, end) for claim, end in ends}
        outcomes = [_outcome(claim.task, succeeds) for claim, succeeds in by_key.values()]

        accepted = finish_attempts(outcomes)

        expected = {}
        for (pk, token), (_, succeeds) in by_key.items():
            row = self.rows[pk]
            if row.is_held_with(token):
                row.succeed() if succeeds else row.fail()
                expected[pk] = row.status
                self.settle(pk, token)
        assert accepted == expected

    # Death and deadlines

    @rule(number=WORKERS)
    def declare_dead(self, number):
        """Another process takes the place; what this one remembers is not forgotten."""
        worker = self.workers[number]
        Worker.objects.filter(pk=worker.pk).declare_dead()
        self.dead.add(worker.pk)
        self.workers[number] = WorkerFactory()

    @precondition(lambda self: self.has("RUNNING"))
    @rule(chosen=CHOSEN)
    def deadline_passes(self, chosen):
        pk = self.one_of(chosen, "RUNNING")
        Task.objects.running().filter(pk=pk).update(deadline_at=DatabaseNow(-1))
        self.rows[pk].overdue = True

    @precondition(lambda self: self.needy())
    @rule()
    def rescue(self):
        needy = self.needy()

        assert rescue_tasks() == len(needy)

        for pk, lost in needy.items():
            self.settle(pk, self.rows[pk].token)
            self.rows[pk].rescue(lost=lost)

    # Operators

    @rule(pk=tasks, verb=st.sampled_from(["hold", "unhold", "cancel"]))
    def operate(self, pk, verb):
        getattr(Task.objects.filter(pk=pk), verb)()
        getattr(self.rows[pk], verb)()

    @precondition(lambda self: self.has("RUNNING"))
    @rule(chosen=CHOSEN)
    def cancel_by_force(self, chosen):
        pk = self.one_of(chosen, "RUNNING")
        self.settle(pk, self.rows[pk].token)
        Task.objects.filter(pk=pk).cancel(force=True)
        self.rows[pk].cancel(force=True)

    @precondition(lambda self: self.has(*FINISHED))
    @rule(chosen=CHOSEN, reset_attempts=st.booleans())
    def requeue(self, chosen, reset_attempts):
        pk = self.one_of(chosen, *FINISHED)
        Task.objects.filter(pk=pk).requeue(reset_attempts=reset_attempts)
        self.rows[pk].requeue(reset_attempts=reset_attempts)
        self.ends.pop(pk, None)

    # Who may be meant

    def has(self, *statuses):
        return any(row.status in statuses for row in self.rows.values())

    def one_of(self, chosen, *statuses):
        return pick(chosen, [pk for pk, row in self.rows.items() if row.status in statuses])

    def startable(self):
        return [claim for claim in self.claims if not claim.given_back]

    def unstarted(self):
        return [claim for claim in self.startable() if not claim.started]

    def needy(self):
        """Return the tasks that a rescue would take back, each with whether its worker died."""
        return {
            pk: row.holder in self.dead
            for pk, row in self.rows.items()
            if row.status == "RUNNING" and (row.holder in self.dead or row.overdue)
        }

    def settle(self, pk, token):
        """Each claim has one end."""
        assert (pk, token) not in self.settled
        self.settled.add((pk, token))

    # What is always so

    @invariant()
    def all_is_well(self):
        tasks = list(Task.objects.all())
        history = list(Attempt.objects.values_list("task", "token"))
        self.every_task_is_there_and_as_expected(tasks)
        self.tokens_never_fall(tasks)
        self.running_tasks_have_one_worker_and_a_deadline(tasks)
        self.an_end_is_kept_until_a_requeue(tasks)
        self.each_attempt_that_did_not_succeed_has_its_row(history)
        self.executions_are_bounded()

    def every_task_is_there_and_as_expected(self, tasks):
        stored = {
            task.pk: (
                task.status,
                task.token,
                task.attempts,
                task.crashes,
                task.locked_by_id,
                task.cancel_requested,
            )
            for task in tasks
        }
        assert stored == {pk: row.stored() for pk, row in self.rows.items()}

    def tokens_never_fall(self, tasks):
        for task in tasks:
            assert task.token >= self.tokens.get(task.pk, 0)
            self.tokens[task.pk] = task.token

    def running_tasks_have_one_worker_and_a_deadline(self, tasks):
        for task in tasks:
            held = [task.locked_by_id, task.locked_at, task.deadline_at]
            assert [value is not None for value in held] == [task.status == "RUNNING"] * 3

    def an_end_is_kept_until_a_requeue(self, tasks):
        for task in tasks:
            assert (task.finished_at is not None) == task.is_finished
            if task.is_finished:
                end = (task.status, task.token)
                assert self.ends.setdefault(task.pk, end) == end

    def each_attempt_that_did_not_succeed_has_its_row(self, history):
        expected = {(pk, token) for pk, row in self.rows.items() for token in row.history}
        assert len(history) == len(set(history))
        assert set(history) == expected

    def executions_are_bounded(self):
        for row in self.rows.values():
            assert row.executions <= row.counted + row.pardons
            assert row.pardons <= 1 + row.requeues
            assert 0 <= row.attempts <= MAX_ATTEMPTS + row.requeues
            assert row.crashes <= MAX_CRASHES

    def teardown(self):
        """Nothing is stuck: one worker that lives brings all of it to an end."""
        Worker.objects.all().declare_dead()
        worker = WorkerFactory()
        for _ in range(3 * MAX_CRASHES):
            rescue_tasks()
            Task.objects.unhold()
            Task.objects.run_now()
            claimed = claim_queue(worker, "default", 100)
            while suspect := claim_suspect(worker):
                claimed += suspect
            finish_attempts([success(task) for task in claimed])
        statuses = set(Task.objects.values_list("status", flat=True))
        assert statuses <= FINISHED
        assert Task.objects.count() == len(self.rows)


def _outcome(task, succeeds):
    """As the execution decides it, by what the claim was told."""
    if succeeds:
        return success(task)
    return retry(task, delay=3600) if task.has_attempts_left else failure(task)


@pytest.mark.parametrize("examples", [pytest.param(10, marks=pytest.mark.sample), 50])
def test_any_history_ends_as_the_protocol_requires(settings_of_the_queue, examples):
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # Not to shrink: each try costs a hundred statements, and the history is told anyway.
            phases=[Phase.generate],
        ),
    )


@pytest.fixture
def settings_of_the_queue(settings):
    settings.BGTASK = {"MAX_CRASHES": MAX_CRASHES}
