"""Whatever happens in whatever order, the database holds what the protocol says."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from bgtask.dialects import Clock
from bgtask.models import Attempt, Task, Worker
from bgtask.status import HeldFor
from tests.bgtask.conformance.expectation import FINISHED, MAX_ATTEMPTS, MAX_CRASHES, Row
from tests.bgtask.conformance.outcomes import failure, retry, success
from tests.factories import WorkerFactory

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

WORKERS = st.integers(0, 1)


@dataclass(eq=False)
class Claim:
    """What a worker has in its memory, be it out of date."""

    task: Task
    started: bool = False
    given_back: bool = False


class Histories(RuleBasedStateMachine):
    tasks = Bundle("tasks")
    claims = Bundle("claims")

    def __init__(self):
        super().__init__()
        for model in (Attempt, Task, Worker):
            model.objects.all().delete()
        self.rows: dict[int, Row] = {}
        self.workers = [WorkerFactory(), WorkerFactory()]
        self.dead: set[int] = set()
        self.settled: set[tuple[int, int]] = set()
        self.tokens: dict[int, int] = {}
        self.ends: dict[int, tuple[str, int]] = {}

    # Enqueue, promote

    @rule(target=tasks, priority=st.integers(0, 1), later=st.booleans())
    def enqueue(self, priority, later):
        assume(len(self.rows) < 6)
        task = Task.objects.enqueue(
            "tests.tasks.noop",
            max_attempts=MAX_ATTEMPTS,
            priority=priority,
            schedule=3600 if later else None,
        )
        self.rows[task.pk] = Row("SCHEDULED" if later else "READY", due=not later)
        return task.pk

    @rule(pk=tasks)
    def time_comes(self, pk):
        Task.objects.filter(pk=pk, run_at__gt=Clock()).update(run_at=Clock(-1))
        self.rows[pk].due = True

    @rule()
    def promote(self):
        due = [row for row in self.rows.values() if row.status == "SCHEDULED" and row.due]

        assert Task.objects.promote() == len(due)

        for row in due:
            row.status = "READY"

    # Claim, start, and the ways out

    @rule(target=claims, number=WORKERS, limit=st.integers(1, 3), heard=st.booleans())
    def claim(self, number, limit, heard):
        worker = self.workers[number]
        expected = list(
            Task.objects.ready().filter(crashes=0).order_by("-priority", "run_at", "pk")[:limit]
        )

        claimed = Task.objects.claim(worker, "default", limit)

        assert [task.pk for task in claimed] == [task.pk for task in expected]
        return self._claimed(worker, claimed, heard=heard)

    @rule(target=claims, number=WORKERS)
    def claim_suspect(self, number):
        worker = self.workers[number]

        claimed = Task.objects.claim_suspect(worker)

        ready = [row for row in self.rows.values() if row.status == "READY"]
        assert len(claimed) == any(row.crashes for row in ready)
        return self._claimed(worker, claimed)

    def _claimed(self, worker, claimed, *, heard=True):
        for task in claimed:
            row = self.rows[task.pk]
            assert row.status == "READY"
            row.claim(worker.pk)
            assert (task.token, task.attempts) == (row.token, row.attempts)
        # Or the reply was lost, and the tasks are in no worker's memory.
        return multiple(*(Claim(task) for task in claimed if heard))

    @rule(claim=claims)
    def start(self, claim):
        """Nothing is written: somebody declared dead may do so, and not know it."""
        assume(not claim.started and not claim.given_back)
        claim.started = True
        self.rows[claim.task.pk].executions += 1

    @rule(claim=claims, park=st.booleans())
    def give_back(self, claim, park):
        assume(not claim.started)
        claim.given_back = True
        row = self.rows[claim.task.pk]
        ours = row.is_held_with(claim.task.token)

        if park:
            number = Task.objects.park([claim.task], HeldFor.TYPE)
        else:
            number = Task.objects.release([claim.task])

        assert number == ours
        if ours:
            row.put_back("HELD" if park else "READY")

    @rule(some=st.lists(st.tuples(claims, st.booleans()), min_size=1, max_size=4))
    def finish(self, some):
        """Some of them again, some late, some that others had taken back by then."""
        ended = {id(claim): (claim, succeeds) for claim, succeeds in some if claim.started}
        by_key = {
            (claim.task.pk, claim.task.token): one for one in ended.values() for claim in one[:1]
        }
        assume(by_key)
        outcomes = [_outcome(claim.task, succeeds) for claim, succeeds in by_key.values()]

        accepted = Task.objects.finish(outcomes)

        expected = {}
        for (pk, token), (_, succeeds) in by_key.items():
            row = self.rows[pk]
            if row.is_held_with(token):
                row.succeed() if succeeds else row.fail()
                expected[pk] = row.status
                assert (pk, token) not in self.settled
                self.settled.add((pk, token))
        assert accepted == expected

    # Death and deadlines

    @rule(number=WORKERS)
    def declare_dead(self, number):
        """Another process takes the place; what this one remembers is not forgotten."""
        worker = self.workers[number]
        Worker.objects.filter(pk=worker.pk).declare_dead()
        self.dead.add(worker.pk)
        self.workers[number] = WorkerFactory()

    @rule(pk=tasks)
    def deadline_passes(self, pk):
        Task.objects.running().filter(pk=pk).update(deadline_at=Clock(-1))
        self.rows[pk].overdue = self.rows[pk].status == "RUNNING"

    @rule()
    def rescue(self):
        needy = {
            pk: row.holder in self.dead
            for pk, row in self.rows.items()
            if row.status == "RUNNING" and (row.holder in self.dead or row.overdue)
        }

        assert Task.objects.rescue() == len(needy)

        for pk, lost in needy.items():
            self.settled.add((pk, self.rows[pk].token))
            self.rows[pk].rescue(lost=lost)

    # Operators

    @rule(pk=tasks)
    def hold(self, pk):
        Task.objects.filter(pk=pk).hold()
        self.rows[pk].hold()

    @rule(pk=tasks)
    def unhold(self, pk):
        Task.objects.filter(pk=pk).unhold()
        self.rows[pk].unhold()

    @rule(pk=tasks, force=st.booleans())
    def cancel(self, pk, force):
        row = self.rows[pk]
        if force and row.status == "RUNNING":
            self.settled.add((pk, row.token))
        Task.objects.filter(pk=pk).cancel(force=force)
        row.cancel(force=force)

    @rule(pk=tasks, reset_attempts=st.booleans())
    def requeue(self, pk, reset_attempts):
        Task.objects.filter(pk=pk).requeue(reset_attempts=reset_attempts)
        self.rows[pk].requeue(reset_attempts=reset_attempts)
        self.ends.pop(pk, None)

    # What is always so

    @invariant()
    def every_task_is_there_and_as_expected(self):
        stored = {
            pk: tuple(values)
            for pk, *values in Task.objects.values_list(
                "pk", "status", "token", "attempts", "crashes", "locked_by", "cancel_requested"
            )
        }
        assert stored == {pk: row.stored() for pk, row in self.rows.items()}

    @invariant()
    def tokens_rise_by_one_at_most(self):
        for pk, token in Task.objects.values_list("pk", "token"):
            assert 0 <= token - self.tokens.get(pk, 0) <= 1
            self.tokens[pk] = token

    @invariant()
    def what_runs_has_one_holder_and_a_deadline(self):
        for task in Task.objects.all():
            held = [task.locked_by_id, task.locked_at, task.deadline_at]
            assert [value is not None for value in held] == [task.status == "RUNNING"] * 3

    @invariant()
    def an_end_stands_until_somebody_requeues(self):
        for task in Task.objects.finished():
            assert task.finished_at is not None
            end = (task.status, task.token)
            assert self.ends.setdefault(task.pk, end) == end
        assert not Task.objects.live().filter(finished_at__isnull=False).exists()

    @invariant()
    def there_is_a_row_of_history_for_each_attempt_that_did_not_succeed(self):
        history = list(Attempt.objects.values_list("task", "token"))
        expected = {(pk, token) for pk, row in self.rows.items() for token in row.history}
        assert len(history) == len(set(history))
        assert set(history) == expected

    @invariant()
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
            Task.objects.rescue()
            Task.objects.unhold()
            Task.objects.run_now()
            claimed = Task.objects.claim(worker, "default", 100)
            while suspect := Task.objects.claim_suspect(worker):
                claimed += suspect
            Task.objects.finish([success(task) for task in claimed])
        statuses = set(Task.objects.values_list("status", flat=True))
        assert statuses <= FINISHED
        assert Task.objects.count() == len(self.rows)


def _outcome(task, succeeds):
    """As the execution decides it, by what the claim was told."""
    if succeeds:
        return success(task)
    return retry(task, delay=3600) if task.has_attempts_left else failure(task)


def test_any_history_ends_as_the_protocol_says(settings_of_the_queue):
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=40,
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
