"""
What must be true of every step, whatever happens: each a function that finds fault or does not.

Each gets the state before, the step and the rules, and answers with a sentence if it is violated.

The module is long because each promise of the queue is one function here.
"""

import itertools
from collections.abc import Callable
from typing import Final

from bgtask.status import TRANSITIONS

from .model import FINISHED, WAITING_IN_DATABASE, Rules, Settled, State, Step, Task, Verb

Invariant = Callable[[State, Step, Rules], str | None]

RAISES_TOKEN: Final[frozenset[Verb]] = frozenset(
    {"claim", "release", "set_aside", "rescue", "cancel by force", "requeue"}
)


def _pairs(*names: str) -> frozenset[tuple[str, str]]:
    """Return each (from, to) of these transitions of the code."""
    return frozenset(
        (start.value, end.value)
        for name in names
        for start, end in itertools.product(*TRANSITIONS[name])
    )


CANCEL_RUNNING: Final = ("RUNNING", "CANCELLED")
ALLOWED: Final[dict[Verb, frozenset[tuple[str, str]]]] = {
    "promote": _pairs("promote"),
    "claim": _pairs("claim"),
    "release": _pairs("release"),
    "set_aside": _pairs("set_aside"),
    "finish": _pairs("succeed", "fail", "retry"),
    "rescue": _pairs("rescue"),
    "hold": _pairs("hold"),
    "unhold": _pairs("unhold"),
    "cancel": _pairs("cancel") - {CANCEL_RUNNING} | {("RUNNING", "RUNNING")},  # cancel_requested
    "cancel by force": frozenset({CANCEL_RUNNING}),
    "requeue": _pairs("requeue"),
}


def no_task_is_lost(before: State, step: Step, rules: Rules) -> str | None:
    """Conservation: a row appears at its enqueue and stays; it is its own history."""
    for number, (old, new) in enumerate(zip(before.tasks, step.after.tasks, strict=True)):
        if step.verb == "fail over":
            continue
        if old is None and new is not None and (step.verb, step.task) != ("enqueue", number):
            return "a task appeared that nobody enqueued"
        if old is not None and new is None:
            return "a task disappeared"
    return None


def only_the_moves_of_the_table(before: State, step: Step, rules: Rules) -> str | None:
    for number, old, new in _changed(before, step):
        if number != step.task or (old.status, new.status) not in ALLOWED.get(step.verb, ()):
            return f"{step.verb} is no move from {old.status} to {new.status}"
    return None


def the_token_rises_at_the_marked_moves(before: State, step: Step, rules: Rules) -> str | None:
    """By one, or by more where newer tokens were lost in a failover."""
    for _, old, new in _changed(before, step):
        rise = new.token - old.token
        expected = 1 if step.verb in RAISES_TOKEN else 0
        if rise < expected or (rise > expected and not (expected and before.failovers)):
            return f"{step.verb} took the token from {old.token} to {new.token}"
    return None


def a_running_task_has_one_holder(before: State, step: Step, rules: Rules) -> str | None:
    """Check that a task is RUNNING if and only if a worker holds it.

    Also check that no two processes believe in the same claim.
    """
    for task in step.after.tasks:
        if task is not None and (task.status == "RUNNING") != (task.holder is not None):
            return f"a {task.status} task is held by {task.holder}"
    claims = [(c.task, c.token) for process in step.after.processes for c in process.claims]
    if len(claims) != len(set(claims)):
        return "two claims with the same token are in the hands of processes"
    return None


def an_old_token_changes_nothing(before: State, step: Step, rules: Rules) -> str | None:
    """Check that a write about a claim carries its token, and that the claim is still open."""
    if step.verb not in ("finish", "release", "set_aside", "rescue"):
        return None
    for _, old, _new in _changed(before, step):
        if step.carried != old.token:
            return f"{step.verb} with token {step.carried} changed a row with token {old.token}"
        if old.status != "RUNNING":
            return f"{step.verb} changed a {old.status} row"
    return None


def a_stale_outcome_changes_nothing(before: State, step: Step, rules: Rules) -> str | None:
    """After a failover, a claim that the database no longer knows is never taken for a newer one.

    Neither for a newer attempt of its task, nor for another task that got the id of a lost one.
    """
    if step.stale and _changed(before, step):
        return f"{step.verb} for a claim that was lost in a failover changed a newer row"
    if step.stale and step.announced is not None:
        return "a signal was sent for a claim that was lost in a failover"
    return None


def finished_is_finished(before: State, step: Step, rules: Rules) -> str | None:
    """Terminal states are left by an operator's requeue only."""
    for _, old, new in _changed(before, step):
        if old.status in FINISHED and step.verb != "requeue":
            return f"{step.verb} rewrote a {old.status} task as {new.status}"
    return None


def one_outcome_for_each_claim(before: State, step: Step, rules: Rules) -> str | None:
    settled = step.settled
    if settled is not None:
        for earlier in before.settled:
            if (earlier.task, earlier.token) == (settled.task, settled.token):
                return f"the {settled.by} settled a claim that the {earlier.by} had settled"
    return None


def only_accepted_outcomes_are_announced(before: State, step: Step, rules: Rules) -> str | None:
    """Check that each signal for (task, token) is about an outcome that the database accepted."""
    if step.announced is not None and step.announced not in step.after.settled:
        return "a signal was sent for an outcome that the database never accepted"
    return None


def an_accepted_outcome_is_announced(before: State, step: Step, rules: Rules) -> str | None:
    """Unless the process died, or the task was claimed or requeued before the answer was known.

    That exception is the price of reading back by token: the signal is sent at most once.
    """
    for old, new in zip(before.processes, step.after.processes, strict=True):
        if old.claims == new.claims or old.worker != new.worker:
            continue
        left = {(c.task, c.token) for c in old.claims} - {(c.task, c.token) for c in new.claims}
        for number, token in left:
            row, settled = before.tasks[number], Settled(number, token, "worker")
            current = row is not None and row.token == token
            if current and settled in before.settled and step.announced != settled:
                return "an outcome was accepted, and no signal sent"
    return None


def released_tasks_never_ran(before: State, step: Step, rules: Rules) -> str | None:
    """Release takes the attempt back, so the claim must not have started, nor start later."""
    if step.verb not in ("release", "set_aside"):
        return None
    for number, old, _ in _changed(before, step):
        if old.started:
            return "a claim was released that had been started"
        if any(
            (claim.task, claim.token) == (number, old.token)
            for process in step.after.processes
            for claim in process.claims
        ):
            return "a claim was released that a process may still start"
    return None


def attempts_are_bounded(before: State, step: Step, rules: Rules) -> str | None:
    """Check the exact bound on the executions in one life of a task.

    A life lasts from the enqueue or a requeue of the task to its next requeue.

    Every execution belongs to a claim, every claim to one execution at most (a claim is started by
    the one process that heard of it, once), and a claim counts one attempt. Attempts are given
    back in three ways only. After a release, or when the task is set aside, the claim never runs.
    After the first death of a worker in this life, or the stop of one, it may have run once. Hence

        executions started ≤ attempts counted + attempts given back by a rescue,
        given back by a rescue ≤ 1 in each life, and 1 for each stop of a worker,
        attempts counted ≤ MAX_ATTEMPTS in each life; after a requeue that keeps them,
            MAX_ATTEMPTS less those kept, but at least 1,

    so a task runs at most MAX_ATTEMPTS + 1 times in a life, however many workers die under it
    (further deaths count their attempt, and end the life at MAX_CRASHES), and once more for each
    time that somebody stops a worker that does not wait for it.

    And from below, so that no attempt is taken away unrun:

        attempts counted ≤ executions started + claims whose attempt stays counted although they
            were taken away before they started + 1 if the present claim has not started.

    The claims of the middle term are those of a suspect whose worker died between claim and start,
    and those past their deadline or cancelled by force before they started. Nothing else.
    """
    for task in step.after.tasks:
        if task is None:
            continue
        if task.attempts < 0 or task.crashes > rules.max_crashes:
            return f"{task.attempts} attempts, {task.crashes} crashes"
        if task.attempts > rules.max_attempts + task.requeues:
            return f"{task.attempts} attempts were counted"
        if not rules.accounts:
            continue
        if task.balance > task.pardons + task.interruptions:
            return "a task was executed more often than attempts were counted"
        if task.pardons > 1 + task.requeues:
            return "a second death in one life gave the attempt back"
        if task.interruptions > rules.stops:
            return "an attempt was given back for a stop that never was"
        unstarted = task.status == "RUNNING" and not task.started
        if -task.balance > task.unrun + unstarted:
            return "an attempt is counted for a claim that never ran"
    return None


def the_first_death_fails_no_task(before: State, step: Step, rules: Rules) -> str | None:
    """Return the fault if a first death fails a task, which may not even have started."""
    for _, old, new in _changed(before, step):
        first = old.crashes == 0 and new.crashes == 1 < rules.max_crashes
        if step.verb == "rescue" and first and new.status == "FAILED":
            return "a task failed at the first death of a worker"
    return None


def a_stop_fails_no_task(before: State, step: Step, rules: Rules) -> str | None:
    """Check that no task becomes a suspect when its worker was told to stop."""
    sighting = before.sighting
    if step.verb != "rescue" or sighting is None or sighting.reason == "overdue":
        return None
    for _, old, new in _changed(before, step):
        if old.holder in before.retired and new.crashes != old.crashes:
            return "a task became a suspect when its worker was told to stop"
    return None


def a_requested_cancel_stands(before: State, step: Step, rules: Rules) -> str | None:
    """Check that no task whose cancel was requested waits again, until somebody requeues it."""
    for _, old, new in _changed(before, step):
        if old.cancel_requested and new.status in WAITING_IN_DATABASE and step.verb != "requeue":
            return f"{step.verb} made a task {new.status} whose cancel was requested"
    return None


def a_suspect_runs_alone(before: State, step: Step, rules: Rules) -> str | None:
    """Check that the holder of a suspect holds nothing else.

    Its next death is then counted for the right task.
    """
    state = step.after
    hands: dict[int, set[tuple[int, int]]] = {}
    suspects: list[int] = []
    for number, task in enumerate(state.tasks):
        if task is not None and task.holder is not None:
            hands.setdefault(task.holder, set()).add((number, task.token))
            if task.crashes > 0:
                suspects.append(task.holder)
    if not suspects:
        return None
    for process in state.processes:
        in_flight = hands.setdefault(process.worker, set())
        in_flight.update((claim.task, claim.token) for claim in process.claims)
    if any(len(hands[worker]) > 1 for worker in suspects):
        return "a suspect is not alone in the hands of its worker"
    return None


def _changed(before: State, step: Step) -> list[tuple[int, Task, Task]]:
    """Return the rows whose columns this step changed.

    Columns that only the explorer knows do not count. A failover is no move: it puts rows back to
    what they were.
    """
    if step.verb == "fail over":
        return []
    return [
        (number, old, new)
        for number, (old, new) in enumerate(zip(before.tasks, step.after.tasks, strict=True))
        if old is not new and old is not None and new is not None and old[:6] != new[:6]
    ]


INVARIANTS: Final[tuple[Invariant, ...]] = (
    no_task_is_lost,
    only_the_moves_of_the_table,
    the_token_rises_at_the_marked_moves,
    a_running_task_has_one_holder,
    an_old_token_changes_nothing,
    a_stale_outcome_changes_nothing,
    finished_is_finished,
    one_outcome_for_each_claim,
    only_accepted_outcomes_are_announced,
    an_accepted_outcome_is_announced,
    released_tasks_never_ran,
    attempts_are_bounded,
    the_first_death_fails_no_task,
    a_stop_fails_no_task,
    a_requested_cancel_stands,
    a_suspect_runs_alone,
)
