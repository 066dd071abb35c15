"""
The protocol keeps its promises in every order of events, and needs each of its checks.

The module is long because each broken move is one case of the same search.
"""

import gc
from collections.abc import Iterator
from dataclasses import replace

import pytest

from .explorer import explore
from .invariants import (
    INVARIANTS,
    Invariant,
    a_requested_cancel_stands,
    a_stale_outcome_changes_nothing,
    a_stop_fails_no_task,
    a_suspect_runs_alone,
    an_accepted_outcome_is_announced,
    an_old_token_changes_nothing,
    attempts_are_bounded,
    finished_is_finished,
    one_outcome_for_each_claim,
    only_accepted_outcomes_are_announced,
    only_the_moves_of_the_table,
    released_tasks_never_ran,
    the_first_death_fails_no_task,
    the_token_rises_at_the_marked_moves,
)
from .model import Rules

pytestmark = pytest.mark.vendor("sqlite")  # A model needs no database; once is enough.

# Each world is small enough to be explored to its end. Together they hold every move.
TWO_WORKERS = Rules(capacity=1, requeues=0, accounts=False)
ONE_WORKER = Rules(processes=1, accounts=False)  # goes on with old claims under a new row
TWO_TASKS = Rules(
    tasks=2, processes=1, requeues=0, max_attempts=1,
    operator=False, broken_flushes=False, accounts=False,
)  # fmt: skip
ACCOUNTS = Rules(capacity=1, requeues=0, operator=False, broken_flushes=False)
STOPS = replace(ACCOUNTS, processes=1, stops=2)
FAILOVER = Rules(
    capacity=1, requeues=0, failovers=1, max_attempts=1, max_crashes=1, operator=False,
    accounts=False,
)  # fmt: skip
SMALL = Rules(processes=1, capacity=1, requeues=0, operator=False, accounts=False)

WORLDS = [
    pytest.param(TWO_WORKERS, id="two workers and an operator", marks=pytest.mark.sample),
    pytest.param(ONE_WORKER, id="one worker that outlives its row, and a requeue"),
    pytest.param(TWO_TASKS, id="two tasks in one hand"),
    pytest.param(ACCOUNTS, id="two workers, every execution counted"),
    pytest.param(
        replace(ACCOUNTS, processes=1, operator=True, requeues=1, max_attempts=1),
        id="one worker, an operator, a requeue, every execution counted",
    ),
    pytest.param(STOPS, id="one worker that is told to stop, every execution counted"),
]
LARGE_WORLDS = [
    pytest.param(
        replace(TWO_WORKERS, requeues=1, max_attempts=1),
        id="two workers, an operator, a requeue",
    ),
    pytest.param(replace(TWO_WORKERS, max_crashes=3), id="three crashes"),
    pytest.param(replace(TWO_WORKERS, stops=1, broken_flushes=False), id="two workers, a stop"),
    pytest.param(replace(TWO_TASKS, broken_flushes=True), id="two tasks, broken connections"),
]

FAILOVERS = [
    pytest.param(
        replace(FAILOVER, processes=1, capacity=2),
        id="one worker that outlives its claims, connections that break",
    ),
    pytest.param(
        replace(FAILOVER, broken_flushes=False), id="two workers", marks=pytest.mark.sample
    ),
    pytest.param(
        replace(FAILOVER, processes=1, operator=True, requeues=1, broken_flushes=False),
        id="one worker, an operator, a requeue",
    ),
]
# An execution that the database has forgotten is not counted, and its attempt may be given back.
KEPT_IN_A_FAILOVER = tuple(
    invariant
    for invariant in INVARIANTS
    if invariant not in (released_tasks_never_ran, attempts_are_bounded)
)

# What the code must do follows from the table; what a fault does to people is said by the others.
RULES_OF_THE_TABLE = {only_the_moves_of_the_table, the_token_rises_at_the_marked_moves}
HARM = tuple(invariant for invariant in INVARIANTS if invariant not in RULES_OF_THE_TABLE)

BROKEN = [
    pytest.param(
        replace(FAILOVER, claim_jumps=False),
        a_stale_outcome_changes_nothing,
        id="a claim raises the token by one, and the newest commits are lost",
    ),
    pytest.param(
        replace(TWO_WORKERS, finish_checks_token=False),
        an_old_token_changes_nothing,
        id="no token in finish",
        marks=pytest.mark.sample,
    ),
    pytest.param(
        replace(TWO_WORKERS, finish_checks_status=False),
        one_outcome_for_each_claim,
        id="no status in finish",
    ),
    pytest.param(
        replace(TWO_WORKERS, finish_checks_status=False),
        finished_is_finished,
        id="no status in finish: what ended is rewritten",
    ),
    pytest.param(
        replace(TWO_WORKERS, finish_reads_back=False, refused_finish_reads_back=False),
        an_accepted_outcome_is_announced,
        id="no read-back at all",
    ),
    pytest.param(
        replace(TWO_WORKERS, refused_finish_reads_back=False),
        an_accepted_outcome_is_announced,
        id="read-back after a broken connection only",
    ),
    pytest.param(
        replace(TWO_WORKERS, claim_raises_token=False),
        one_outcome_for_each_claim,
        id="token not raised at a claim",
    ),
    pytest.param(
        replace(TWO_WORKERS, release_checks_token=False),
        an_old_token_changes_nothing,
        id="no token in release",
    ),
    pytest.param(
        replace(ACCOUNTS, a_death_counts_as_a_crash=False),
        attempts_are_bounded,
        id="a death is not counted: a task that kills runs without end",
    ),
    pytest.param(
        replace(TWO_WORKERS, a_requested_cancel_is_kept=False),
        a_requested_cancel_stands,
        id="a requested cancel is forgotten at a release, a retry or a rescue",
    ),
    pytest.param(
        replace(TWO_WORKERS, rescue_checks_again=False),
        finished_is_finished,
        id="rescue by id alone",
    ),
    pytest.param(
        replace(TWO_WORKERS, rescue_checks_again=False),
        an_old_token_changes_nothing,
        id="rescue by id alone: a newer attempt is taken",
    ),
    pytest.param(
        replace(TWO_WORKERS, rescue_raises_token=False),
        only_accepted_outcomes_are_announced,
        id="token not raised at rescue",
    ),
    pytest.param(
        replace(TWO_WORKERS, forced_cancel_raises_token=False),
        only_accepted_outcomes_are_announced,
        id="token not raised at a cancel by force",
    ),
    pytest.param(
        replace(TWO_WORKERS, worker_rows_are_never_reused=False),
        released_tasks_never_ran,
        id="a worker row is reused",
    ),
    pytest.param(
        replace(ACCOUNTS, worker_rows_are_never_reused=False),
        attempts_are_bounded,
        id="a worker row is reused: a task that kills runs without end",
    ),
    pytest.param(
        replace(ACCOUNTS, release_gives_the_attempt_back=False),
        attempts_are_bounded,
        id="no refund at release",
    ),
    pytest.param(
        replace(TWO_WORKERS, release_forgets_first=False),
        released_tasks_never_ran,
        id="released, but still about to start",
    ),
    pytest.param(
        replace(TWO_WORKERS, reconcile_waits_for_claims=False),
        released_tasks_never_ran,
        id="reconciled while a claim is under way",
    ),
    pytest.param(
        replace(ACCOUNTS, only_the_first_death_is_pardoned=False),
        attempts_are_bounded,
        id="every death gives the attempt back",
    ),
    pytest.param(
        replace(ONE_WORKER, first_death_never_fails=False),
        the_first_death_fails_no_task,
        id="the first death fails a task on its last attempt",
    ),
    pytest.param(
        replace(STOPS, a_stop_is_no_death=False),
        a_stop_fails_no_task,
        id="a stop counts as a crash",
    ),
    pytest.param(
        replace(STOPS, a_death_is_no_stop=False),
        attempts_are_bounded,
        id="a crash counts as a stop: a task that kills runs without end",
    ),
    pytest.param(
        replace(TWO_TASKS, suspects_are_alone=False),
        a_suspect_runs_alone,
        id="suspects beside others",
    ),
    pytest.param(
        replace(TWO_TASKS, suspects_are_alone_until_flushed=False),
        a_suspect_runs_alone,
        id="a claim beside a suspect whose outcome is not flushed",
    ),
    pytest.param(
        replace(TWO_TASKS, claim_reconciles_first=False),
        a_suspect_runs_alone,
        id="a claim after an exception, before reconciling",
    ),
]

STUCK = [
    pytest.param(replace(SMALL, reconcile_happens=False), id="nobody reconciles"),
    pytest.param(replace(SMALL, rescue_happens=False), id="nobody rescues"),
]


@pytest.fixture(autouse=True, scope="module")
def _no_garbage() -> Iterator[None]:
    """Many thousand tuples and no cycle: looking for one takes a third of the time."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("rules", WORLDS)
def test_every_promise_is_kept_in_all_reachable_states(rules: Rules) -> None:
    exploration = explore(rules)
    assert exploration.violation is None, str(exploration)


@pytest.mark.slow
@pytest.mark.parametrize("rules", FAILOVERS)
def test_the_fence_holds_where_the_database_loses_its_newest_commits(rules: Rules) -> None:
    exploration = explore(rules, KEPT_IN_A_FAILOVER)
    assert exploration.violation is None, str(exploration)


@pytest.mark.slow
@pytest.mark.parametrize("rules", LARGE_WORLDS)
def test_every_promise_is_kept_in_larger_models(rules: Rules) -> None:
    exploration = explore(rules)
    assert exploration.violation is None, str(exploration)


@pytest.mark.slow
@pytest.mark.parametrize(("rules", "promise"), BROKEN)
def test_without_one_of_its_checks_the_protocol_breaks_a_promise(
    rules: Rules, promise: Invariant
) -> None:
    exploration = explore(rules, [promise])
    assert exploration.broken == promise.__name__, str(exploration)


@pytest.mark.slow
@pytest.mark.parametrize(("rules", "promise"), BROKEN)
def test_each_missing_check_breaks_more_than_the_table_of_transitions(
    rules: Rules, promise: Invariant
) -> None:
    exploration = explore(rules, HARM)
    assert exploration.violation is not None


@pytest.mark.parametrize("rules", STUCK)
def test_task_is_stuck_without_maintenance(rules: Rules) -> None:
    exploration = explore(rules)
    assert exploration.broken == "nothing_is_stuck", str(exploration)


def test_reading_back_after_a_refusal_is_enough() -> None:
    """After a broken connection the outcome may as well be flushed again at once."""
    exploration = explore(replace(ONE_WORKER, requeues=0, finish_reads_back=False))
    assert exploration.violation is None, str(exploration)


def test_violation_is_shown_as_a_sequence_of_steps() -> None:
    """With the names and tokens of this one story, shortest first, so that people can follow it."""
    rules = replace(TWO_WORKERS, worker_rows_are_never_reused=False)
    assert explore(rules).story == (
        "task A is enqueued as READY",
        "worker 0 claims task A (token 1)",
        "worker 0 hears that it has task A (token 1)",
        "worker 0 starts task A (token 1)",
        "worker 0 crashes, a new process starts as worker 0",
        "worker 0 finds task A under its id, releases it",
    )
