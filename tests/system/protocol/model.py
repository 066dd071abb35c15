"""
The protocol of the queue as a small machine: what is stored, who acts, and every move there is.

This is the specification in a form that can be explored to its end. A few processes and a task or
two share a database; anything may happen in any order. Time is not modelled: whatever depends on
a clock (a lease, a deadline, ``run_at``) may come true at any moment, which covers every clock.

*The database* holds tasks and worker rows, and one statement is one step. *A process* is what it
keeps in memory: its claims, from the reply of the database to the accepted outcome. A process may
crash between any two steps. A process that is merely slow may be declared dead and go on
unknowing, as a zombie. A request may be carried out long after the one who sent it gave up waiting.

*The database may lose its newest commits*, once, by a failover to a standby that lags behind: rows
go back to what the standby had received, and the ids of newer tasks are given to other tasks. The
memory of the processes stays. A claim raises the token by a random jump, so the model gives it a
token that nobody remembers. Every remembered token comes from a claim, so the other moves, which
add one, meet none either. A worker draws its id at random, so no id is given to a second worker.

Each check the protocol makes is a switch of ``Rules``. All on is the protocol. The tests turn them
off one by one and expect the explorer to find what goes wrong without it.

The module is long because it is one specification, which has to be read as a whole.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeVar

Status = Literal["SCHEDULED", "READY", "RUNNING", "HELD", "SUCCESSFUL", "FAILED", "CANCELLED"]
FINISHED: Final = frozenset({"SUCCESSFUL", "FAILED", "CANCELLED"})
WAITING_IN_DATABASE: Final = frozenset({"SCHEDULED", "READY", "HELD"})

Verb = Literal[
    "enqueue", "promote", "claim", "release", "set_aside", "finish", "rescue",
    "hold", "unhold", "cancel", "cancel by force", "requeue", "fail over", "none",
]  # fmt: skip

Stage = Literal["answered", "waiting", "running", "succeeded", "failed", "success?", "failure?"]
"""How far a claim has come in the memory of its process.

answered   the database has committed the claim, its reply is still on the way to the process
waiting    the process knows of the claim and has not started it
running    the user's function runs
succeeded, failed    the outcome waits to be flushed
success?, failure?   it was flushed and the connection broke: nobody knows whether it arrived
"""
BROKEN_FLUSH: Final[dict[Stage, Stage]] = {"succeeded": "success?", "failed": "failure?"}
FLUSH_AGAIN: Final[dict[Stage, Stage]] = {"success?": "succeeded", "failure?": "failed"}

Nature = Literal["protocol", "fault", "operator"]
"""Who makes a step: the healthy protocol, bad luck, or a person.

Nothing may be stuck, so from everywhere the steps of the first kind must lead to an end.
"""

Reason = Literal["lost", "interrupted", "overdue"]
Settler = Literal["worker", "rescue", "operator"]


@dataclass(frozen=True)
class Rules:
    """The bounds of the world, and one switch for each check of the protocol."""

    tasks: int = 1
    processes: int = 2
    capacity: int = 2  # claims in the memory of one process
    max_attempts: int = 2
    max_crashes: int = 2
    requeues: int = 1  # per task
    stops: int = 0  # of processes, in all
    failovers: int = 0  # to a standby that lacks the newest commits, in all
    operator: bool = True
    broken_flushes: bool = True
    accounts: bool = True  # count executions over the whole life of a task: many more states

    claim_raises_token: bool = True
    claim_jumps: bool = True
    finish_checks_token: bool = True
    finish_checks_status: bool = True
    finish_reads_back: bool = True
    refused_finish_reads_back: bool = True
    release_checks_token: bool = True
    rescue_checks_again: bool = True
    rescue_raises_token: bool = True
    forced_cancel_raises_token: bool = True
    worker_rows_are_never_reused: bool = True
    release_gives_the_attempt_back: bool = True
    release_forgets_first: bool = True
    only_the_first_death_is_pardoned: bool = True
    first_death_never_fails: bool = True
    a_death_counts_as_a_crash: bool = True
    a_requested_cancel_is_kept: bool = True
    a_stop_is_no_death: bool = True
    a_death_is_no_stop: bool = True
    reconcile_happens: bool = True
    reconcile_waits_for_claims: bool = True
    claim_reconciles_first: bool = True
    suspects_are_alone: bool = True
    suspects_are_alone_until_flushed: bool = True
    rescue_happens: bool = True


class Task(NamedTuple):
    """A row, and below the line what only the explorer knows about it."""

    status: Status
    token: int = 0
    attempts: int = 0
    crashes: int = 0
    holder: int | None = None
    cancel_requested: bool = False
    # ---
    started: bool = False  # the claim with the present token was started
    balance: int = 0  # executions started minus attempts counted, over the whole life
    pardons: int = 0  # attempts that a rescue gave back for a death
    interruptions: int = 0  # and those for a stop
    unrun: int = 0  # attempts that stay counted although nothing had started
    requeues: int = 0


class Claim(NamedTuple):
    """A claim in the memory of a process."""

    task: int
    token: int
    stage: Stage
    suspect: bool
    # ---
    stale: bool = False  # a failover undid this claim


class Process(NamedTuple):
    """A process: the worker row it reports under, and its memory."""

    worker: int
    claims: tuple[Claim, ...] = ()
    unsure: bool = False  # a claim or a release ended in an exception


class Sighting(NamedTuple):
    """What a rescuer has read and is about to act upon."""

    task: int
    token: int
    reason: Reason
    # ---
    stale: bool = False


class Flush(NamedTuple):
    """An outcome whose connection broke: it may still be carried out, at any time or never."""

    task: int
    token: int
    success: bool
    # ---
    stale: bool = False


class Settled(NamedTuple):
    """For the explorer: the outcome of this claim is written in the database, and by whom."""

    task: int
    token: int
    by: Settler


class Standby(NamedTuple):
    """What a standby had received when it fell behind."""

    tasks: tuple[Task | None, ...]
    dead: frozenset[int]
    known: frozenset[int]  # worker rows
    settled: frozenset[Settled]


class State(NamedTuple):
    tasks: tuple[Task | None, ...]  # None: not yet enqueued
    processes: tuple[Process, ...]
    dead: frozenset[int] = frozenset()  # worker rows declared dead; the others are alive
    retired: frozenset[int] = frozenset()  # those that were told to stop, dead or not
    stops: int = 0
    sighting: Sighting | None = None
    under_way: Flush | None = None
    settled: frozenset[Settled] = frozenset()
    standby: Standby | None = None
    failovers: int = 0


class Step(NamedTuple):
    """One thing that happens, in words, and what the invariants want to know about it."""

    sentence: str
    nature: Nature
    after: State
    verb: Verb = "none"
    task: int | None = None
    carried: int | None = None  # the token that the writer held
    settled: Settled | None = None  # an outcome was written for this claim
    announced: Settled | None = None  # a signal was sent for this outcome
    stale: bool = False  # the writer acts on a claim that a failover undid


def beginning(rules: Rules) -> State:
    """Nothing enqueued, every process up under a row of its own."""
    processes = tuple(Process(worker) for worker in range(rules.processes))
    return State((None,) * rules.tasks, processes)


def steps(state: State, rules: Rules) -> Iterator[Step]:
    """Everything that may happen next."""
    for number, task in enumerate(state.tasks):
        if task is None:
            yield from _enqueue(state, number)
            continue
        yield from _promote(state, number, task)
        yield from _unhold(state, number, task)
        yield from _sight(state, rules, number, task)
        if rules.operator:
            yield from _operate(state, rules, number, task)
    for number in range(len(state.processes)):
        yield from _crash(state, rules, number)
        yield from _stop(state, rules, number)
        yield from _beat(state, rules, number)
        yield from _claim(state, rules, number)
        yield from _handle_claims(state, rules, number)
    yield from _declare_dead(state)
    yield from _take_back(state, rules)
    yield from _flush_arrives_late(state, rules)
    yield from _lose_the_newest_commits(state, rules)


# Enqueue, promote ---------------------------------------------------------------------------------


def _enqueue(state: State, number: int) -> Iterator[Step]:
    for status in ("READY", "SCHEDULED"):
        after = _with_task(state, number, Task(status))
        sentence = f"{_task(number)} is enqueued as {status}"
        yield Step(sentence, "protocol", after, "enqueue", number)


def _promote(state: State, number: int, task: Task) -> Iterator[Step]:
    if task.status == "SCHEDULED":
        after = _with_task(state, number, task._replace(status="READY"))
        yield Step(f"{_task(number)} is due and promoted", "protocol", after, "promote", number)


# Claim, start, succeed or fail --------------------------------------------------------------------


def _claim(state: State, rules: Rules, number: int) -> Iterator[Step]:
    """Commit a claim in the database. Its reply is still on the way.

    A worker declared dead that has not noticed claims like any other: rescue finds those rows too.
    After an exception a process reconciles first, so that it never holds more than it knows of.
    """
    process = state.processes[number]
    if len(process.claims) >= rules.capacity or process.worker in state.retired:
        return
    if process.unsure and rules.claim_reconciles_first:
        return
    if any(claim.stage == "answered" for claim in process.claims):
        return  # one claim at a time
    for index, task in enumerate(state.tasks):
        if task is None or task.status != "READY":
            continue
        suspect = task.crashes > 0
        if not _may_stand_beside(process.claims, suspect, rules):
            continue
        taken = task._replace(
            status="RUNNING",
            token=_raised(state, rules, index, task) if rules.claim_raises_token else task.token,
            attempts=task.attempts + 1,
            holder=process.worker,
            balance=task.balance - 1,
        )
        claims = (*process.claims, Claim(index, taken.token, "answered", suspect))
        after = _with_claims(_with_task(state, index, taken), number, claims)
        sentence = f"{_name(state, number)} claims {_task(index)} (token {taken.token})"
        yield Step(sentence, "protocol", after, "claim", index)


def _may_stand_beside(claims: tuple[Claim, ...], suspect: bool, rules: Rules) -> bool:
    """Return whether a process may hold a suspect, or others beside one: a suspect must be alone.

    It is alone until its outcome is flushed. Otherwise a crash of the process would be counted
    for tasks that only happened to be there.
    """
    if not rules.suspects_are_alone:
        return True
    if not rules.suspects_are_alone_until_flushed:
        claims = tuple(claim for claim in claims if claim.stage in ("waiting", "running"))
    return not claims or not (suspect or any(claim.suspect for claim in claims))


def _handle_claims(state: State, rules: Rules, number: int) -> Iterator[Step]:
    for claim in state.processes[number].claims:
        if claim.stage == "answered":
            yield from _receive_claim(state, number, claim)
        elif claim.stage == "waiting":
            yield from _start(state, number, claim)
            yield from _give_back(state, rules, number, claim)
        elif claim.stage == "running":
            yield from _end(state, number, claim)
        elif claim.stage in ("succeeded", "failed"):
            yield from _flush(state, rules, number, claim)
        else:
            yield from _read_back(state, rules, number, claim)


def _receive_claim(state: State, number: int, claim: Claim) -> Iterator[Step]:
    who = _name(state, number)
    after = _with_claims(state, number, _restaged(state, number, claim, "waiting"))
    yield Step(f"{who} hears that it has {_its(claim)}", "protocol", after)
    after = _with_doubt(_with_claims(state, number, _without(state, number, claim)), number, True)
    yield Step(f"the reply is lost, {who} does not know of {_its(claim)}", "fault", after)


def _start(state: State, number: int, claim: Claim) -> Iterator[Step]:
    """User code begins. Nothing is written: a zombie may have looked at its clock just before."""
    after = _with_claims(state, number, _restaged(state, number, claim, "running"))
    task = state.tasks[claim.task]
    if task is not None:  # Or a failover took the row, and the process does not know.
        started = task.started or task.token == claim.token
        task = task._replace(started=started, balance=task.balance + 1)
        after = _with_task(after, claim.task, task)
    yield Step(f"{_name(state, number)} starts {_its(claim)}", "protocol", after)


def _end(state: State, number: int, claim: Claim) -> Iterator[Step]:
    for stage in ("succeeded", "failed"):
        after = _with_claims(state, number, _restaged(state, number, claim, stage))
        yield Step(f"{_its(claim)} {stage} in {_name(state, number)}", "protocol", after)


# Release and set aside ----------------------------------------------------------------------------


def _give_back(state: State, rules: Rules, number: int, claim: Claim) -> Iterator[Step]:
    """Return a claim that was not started. Forget it before the write, so that it cannot start."""
    who, its = _name(state, number), _its(claim)
    forgotten = _with_claims(state, number, _without(state, number, claim))
    kept = forgotten if rules.release_forgets_first else state
    for verb, status in _WAYS_BACK:
        after = _released(kept, rules, claim.task, claim.token, status)
        yield Step(
            f"{who} {verb}s {its}",
            "protocol", after, verb, claim.task, claim.token, stale=claim.stale,
        )  # fmt: skip
    after = _with_doubt(forgotten, number, True)
    yield Step(f"{who} releases {its}, but the request is lost", "fault", after)


_WAYS_BACK: Final[tuple[tuple[Literal["release", "set_aside"], Status], ...]] = (
    ("release", "READY"),
    ("set_aside", "HELD"),
)


def _released(state: State, rules: Rules, number: int, token: int, status: Status) -> State:
    task = state.tasks[number]
    if task is None or task.status != "RUNNING":
        return state
    if rules.release_checks_token and task.token != token:
        return state
    back = 1 if rules.release_gives_the_attempt_back else 0
    released = _left_running(task, _unless_cancelled(task, rules, status))._replace(
        token=_raised(state, rules, number, task),
        attempts=task.attempts - back,
        balance=task.balance + back,
    )
    return _with_task(state, number, released)


# Finish -------------------------------------------------------------------------------------------


def _flush(state: State, rules: Rules, number: int, claim: Claim) -> Iterator[Step]:
    """Write an outcome. Either the database acknowledges it, or the connection breaks first.

    A refusal is read back like a broken connection: an earlier flush of the same outcome, whose
    connection broke, may have been carried out in the meantime.
    """
    who, its = _name(state, number), _its(claim)
    flush = Flush(claim.task, claim.token, claim.stage == "succeeded", claim.stale)
    accepted, after = _finished(state, rules, flush)
    after = _with_claims(after, number, _without(state, number, claim))
    outcome = Settled(claim.task, claim.token, "worker")
    settled = outcome if accepted else None
    announced, fate = settled, "accepted" if accepted else "refused"
    if not accepted and rules.refused_finish_reads_back and _was_accepted(state, claim):
        announced, fate = outcome, "refused, for it was accepted before"
    yield Step(
        f"{who} flushes that {its} {claim.stage}: {fate}",
        "protocol", after, "finish", claim.task, claim.token, settled, announced, claim.stale,
    )  # fmt: skip
    if rules.broken_flushes and state.under_way is None:
        doubtful = _restaged(state, number, claim, BROKEN_FLUSH[claim.stage])
        after = _with_claims(state, number, doubtful)._replace(under_way=flush)
        yield Step(f"{who} flushes that {its} {claim.stage}: connection broken", "fault", after)


def _flush_arrives_late(state: State, rules: Rules) -> Iterator[Step]:
    """Carry out a flush that the server had received before its connection broke."""
    flush = state.under_way
    if flush is None:
        return
    accepted, after = _finished(state, rules, flush)
    settled = Settled(flush.task, flush.token, "worker") if accepted else None
    fate = "accepted" if accepted else "refused"
    yield Step(
        f"the flush of {_its(flush)} reaches the database after all: {fate}",
        "fault", after._replace(under_way=None), "finish", flush.task, flush.token, settled,
        stale=flush.stale,
    )  # fmt: skip


def _finished(state: State, rules: Rules, flush: Flush) -> tuple[bool, State]:
    """One UPDATE, fenced by id, token and status: SUCCESSFUL, retry or FAILED."""
    task = state.tasks[flush.task]
    if task is None:
        return False, state
    if rules.finish_checks_token and task.token != flush.token:
        return False, state
    if rules.finish_checks_status and task.status != "RUNNING":
        return False, state
    status: Status = "SUCCESSFUL"
    if not flush.success:
        status = _again_or_failed(task, rules, "SCHEDULED")
    after = _with_task(state, flush.task, _left_running(task, status))
    return True, _settle(after, Settled(flush.task, flush.token, "worker"))


def _read_back(state: State, rules: Rules, number: int, claim: Claim) -> Iterator[Step]:
    """After a broken connection, find out whether the outcome was accepted."""
    who, its = _name(state, number), _its(claim)
    task = state.tasks[claim.task]
    still_ours = task is not None and task.token == claim.token and task.status == "RUNNING"
    if not rules.finish_reads_back or still_ours:
        claims = _restaged(state, number, claim, FLUSH_AGAIN[claim.stage])
        after = _with_claims(state, number, claims)
        yield Step(f"{who} will flush {its} again", "protocol", after)
        return
    after = _with_claims(state, number, _without(state, number, claim))
    found = "no row" if task is None else f"{task.status}, token {task.token}"
    if _was_accepted(state, claim):
        announced = Settled(claim.task, claim.token, "worker")
        sentence = f"{who} reads back {its}: {found}, so it was accepted"
        yield Step(sentence, "protocol", after, announced=announced)
    else:
        yield Step(f"{who} reads back {its}: {found}, so it is lost", "protocol", after)


def _was_accepted(state: State, claim: Claim) -> bool:
    """Return whether the row has the same token and is no longer RUNNING.

    Only the holder of the token can have written that. Every other move out of RUNNING raises the
    token.
    """
    task = state.tasks[claim.task]
    return task is not None and task.token == claim.token and task.status != "RUNNING"


# The life of a process: crash, beat, register again -----------------------------------------------


def _crash(state: State, rules: Rules, number: int) -> Iterator[Step]:
    """Its memory is gone, its row is not. Another process starts, always under a new row."""
    worker, after = _registered_again(state, rules, number)
    sentence = f"{_name(state, number)} crashes, a new process starts as worker {worker}"
    yield Step(sentence, "fault", after)


def _stop(state: State, rules: Rules, number: int) -> Iterator[Step]:
    """Tell a process to stop, or end a stopping process that has no claims.

    A stopping process claims nothing. It ends without claims, or after GRACE_PERIOD.
    """
    process, who = state.processes[number], _name(state, number)
    if process.worker not in state.retired:
        if state.stops < rules.stops and process.worker not in state.dead:
            retired = state.retired | {process.worker}
            after = state._replace(retired=retired, stops=state.stops + 1)
            yield Step(f"{who} is told to stop", "operator", after)
    elif not process.claims:
        worker, after = _registered_again(state, rules, number)
        yield Step(f"{who} leaves, a new process starts as worker {worker}", "protocol", after)


def _registered_again(
    state: State, rules: Rules, number: int, claims: tuple[Claim, ...] = ()
) -> tuple[int, State]:
    worker = _new_worker(state) if rules.worker_rows_are_never_reused else number
    after = _replaced(state, number, Process(worker, claims))
    return worker, after._replace(dead=state.dead - {worker}, retired=state.retired - {worker})


def _beat(state: State, rules: Rules, number: int) -> Iterator[Step]:
    process = state.processes[number]
    if process.worker in state.dead:
        yield _learn_of_own_death(state, rules, number)
    elif rules.reconcile_happens:
        yield from _reconcile(state, rules, number)


def _learn_of_own_death(state: State, rules: Rules, number: int) -> Step:
    """Give a new worker row to a process that was declared dead, and drop its unstarted claims.

    Its running tasks go on, but the database will refuse their outcomes.
    """
    process = state.processes[number]
    claims = tuple(c for c in process.claims if c.stage not in ("answered", "waiting"))
    worker, after = _registered_again(state, rules, number, claims)
    sentence = f"{_name(state, number)} learns that it was declared dead, is now worker {worker}"
    return Step(sentence, "protocol", after)


def _reconcile(state: State, rules: Rules, number: int) -> Iterator[Step]:
    """Release the rows under my id that I do not know of, by (id, token).

    Not while a claim is under way: its rows are mine, and I am about to hear of them.
    """
    process = state.processes[number]
    answered = {(c.task, c.token) for c in process.claims if c.stage == "answered"}
    if answered and rules.reconcile_waits_for_claims:
        return
    known = {(c.task, c.token) for c in process.claims} - answered
    for index, task in enumerate(state.tasks):
        if task is None or task.status != "RUNNING" or task.holder != process.worker:
            continue
        if (index, task.token) not in known:
            after = _released(state, rules, index, task.token, "READY")
            sentence = f"{_name(state, number)} finds {_task(index)} under its id, releases it"
            yield Step(sentence, "protocol", after, "release", index, task.token)
            return
    if process.unsure:
        after = _with_doubt(state, number, False)
        yield Step(f"{_name(state, number)} is sure again of what it holds", "protocol", after)


# Rescue -------------------------------------------------------------------------------------------


def _declare_dead(state: State) -> Iterator[Step]:
    """Declare a worker dead whose lease ran out.

    It crashed, or it is only slow. Nobody can tell which.
    """
    in_use: set[int | None] = {process.worker for process in state.processes}
    holders = {task.holder for task in state.tasks if task is not None}
    for worker in sorted(w for w in in_use | holders if w is not None and w not in state.dead):
        after = state._replace(dead=state.dead | {worker})
        if worker in in_use:
            yield Step(f"worker {worker}, alive but slow, is declared dead", "fault", after)
        else:
            yield Step(f"worker {worker} is declared dead", "protocol", after)


def _sight(state: State, rules: Rules, number: int, task: Task) -> Iterator[Step]:
    """Read a row that a dead worker holds, or one that is past its deadline."""
    if state.sighting is not None or task.status != "RUNNING":
        return
    if task.holder in state.dead and rules.rescue_happens:
        reason = _fate(state, rules, task)
        after = state._replace(sighting=Sighting(number, task.token, reason))
        yield Step(f"a rescuer sees {_task(number)} with a dead worker", "protocol", after)
    after = state._replace(sighting=Sighting(number, task.token, "overdue"))
    yield Step(f"a rescuer sees {_task(number)} past its deadline", "fault", after)


def _take_back(state: State, rules: Rules) -> Iterator[Step]:
    """Rescue the task that was seen, in one UPDATE that checks id, token and status again."""
    sighting = state.sighting
    if sighting is None:
        return
    number, token, reason, stale = sighting
    after = state._replace(sighting=None)
    task = state.tasks[number]
    if task is None or (
        rules.rescue_checks_again and (task.status != "RUNNING" or task.token != token)
    ):
        yield Step(f"the rescuer comes too late for {_task(number)}", "protocol", after)
        return
    taken = _AFTER[reason](task, rules)
    taken = taken._replace(
        token=_raised(state, rules, number, task) if rules.rescue_raises_token else task.token
    )
    settled = Settled(number, task.token, "rescue")
    after = _settle(_with_task(after, number, taken), settled)
    sentence = f"{_task(number)} is rescued as {reason}: {taken.status}, token {taken.token}"
    yield Step(sentence, "protocol", after, "rescue", number, token, settled, stale=stale)


def _fate(state: State, rules: Rules, task: Task) -> Reason:
    """Return "interrupted" if the worker was told to stop before it died, else "lost".

    A worker that was told to stop has not been crashed by the tasks that it left running.
    """
    stopped = task.holder in state.retired and rules.a_stop_is_no_death
    return "interrupted" if stopped or not rules.a_death_is_no_stop else "lost"


def _interrupted(task: Task, rules: Rules) -> Task:
    """No crash, and the attempt is given back: it is as often as people stop workers."""
    return _left_running(task, _unless_cancelled(task, rules, "READY"))._replace(
        attempts=task.attempts - 1,
        balance=task.balance + 1,
        interruptions=task.interruptions + 1,
    )


def _lost(task: Task, rules: Rules) -> Task:
    """Its worker died. The first time the attempt is given back, for it may never have started.

    So a first death never ends a task, not even its last attempt, nor the one execution that an
    operator granted by a requeue that kept the attempts (they are used up then, even less one).
    """
    crashes = task.crashes + 1 if rules.a_death_counts_as_a_crash else task.crashes
    pardoned = task.crashes == 0 or not rules.only_the_first_death_is_pardoned
    if crashes >= rules.max_crashes:
        status: Status = "FAILED"
    elif pardoned and rules.first_death_never_fails:
        status = _unless_cancelled(task, rules, "READY")
    else:
        status = _again_or_failed(task, rules, "READY")
    taken = _counted_unrun(_left_running(task, status), task)._replace(crashes=crashes)
    if not pardoned:
        return taken
    return taken._replace(
        attempts=task.attempts - 1,
        balance=task.balance + 1,
        pardons=task.pardons + 1,
        unrun=task.unrun,
    )


def _overdue(task: Task, rules: Rules) -> Task:
    """Take back a task that ran longer than MAX_RUN_TIME.

    No crash is counted, but the attempt is.
    """
    taken = _left_running(task, _again_or_failed(task, rules, "SCHEDULED"))
    return _counted_unrun(taken, task)


_AFTER: Final[dict[Reason, Callable[[Task, Rules], Task]]] = {
    "lost": _lost,
    "interrupted": _interrupted,
    "overdue": _overdue,
}


def _counted_unrun(taken: Task, before: Task) -> Task:
    return taken if before.started else taken._replace(unrun=before.unrun + 1)


# Operator -----------------------------------------------------------------------------------------


def _unhold(state: State, number: int, task: Task) -> Iterator[Step]:
    """Unhold a task, as a person does, or a worker that knows the name.

    A held task is therefore not stuck.
    """
    if task.status == "HELD":
        for status in ("READY", "SCHEDULED"):
            after = _with_task(state, number, task._replace(status=status))
            sentence = f"{_task(number)} is held no longer: {status}"
            yield Step(sentence, "protocol", after, "unhold", number)


def _operate(state: State, rules: Rules, number: int, task: Task) -> Iterator[Step]:
    def step(verb: Verb, changed: Task) -> Step:
        sentence = f"the operator asks to {verb} {_task(number)}: {changed.status}"
        return Step(sentence, "operator", _with_task(state, number, changed), verb, number)

    if task.status in ("READY", "SCHEDULED"):
        yield step("hold", task._replace(status="HELD"))
    if task.status in WAITING_IN_DATABASE:
        yield step("cancel", task._replace(status="CANCELLED"))
    if task.status == "RUNNING" and not task.cancel_requested:
        yield step("cancel", task._replace(cancel_requested=True))
    if task.status == "RUNNING":
        cancelled = _counted_unrun(_left_running(task, "CANCELLED"), task)
        if rules.forced_cancel_raises_token:
            cancelled = cancelled._replace(token=_raised(state, rules, number, task))
        forced = step("cancel by force", cancelled)
        settled = Settled(number, task.token, "operator")
        yield forced._replace(after=_settle(forced.after, settled), settled=settled)
    if task.status in FINISHED and task.requeues < rules.requeues:
        again = task._replace(
            status="READY",
            token=_raised(state, rules, number, task),
            crashes=0,
            cancel_requested=False,
            requeues=task.requeues + 1,
        )
        yield step("requeue", again)
        if task.attempts > 0:
            yield step("requeue", again._replace(attempts=0))


# The database loses its newest commits ------------------------------------------------------------


def _lose_the_newest_commits(state: State, rules: Rules) -> Iterator[Step]:
    """Let a standby fall behind at any moment, and take over at any later one.

    A worker row that the standby never received is missing there. The worker's heartbeat then finds
    no row, like that of a worker declared dead. The model never gives its id to another worker.
    """
    standby = state.standby
    if standby is None:
        if state.failovers < rules.failovers:
            workers = {process.worker for process in state.processes} | state.dead
            holders = {task.holder for task in state.tasks if task and task.holder is not None}
            known = frozenset(workers | holders)
            standby = Standby(state.tasks, state.dead, known, state.settled)
            yield Step("a standby falls behind", "fault", state._replace(standby=standby))
        return
    missing = {p.worker for p in state.processes if p.worker not in standby.known}
    sighting, flush = state.sighting, state.under_way
    after = state._replace(
        tasks=standby.tasks,
        processes=tuple(
            process._replace(claims=tuple(_after_failover(one, standby) for one in process.claims))
            for process in state.processes
        ),
        dead=standby.dead | missing,
        sighting=sighting and _after_failover(sighting, standby),
        under_way=flush and _after_failover(flush, standby),
        settled=standby.settled,
        standby=None,
        failovers=state.failovers + 1,
    )
    yield Step("the standby takes over, the newest commits are lost", "fault", after, "fail over")


Remembered = TypeVar("Remembered", Claim, Sighting, Flush)


def _after_failover(about: Remembered, standby: Standby) -> Remembered:
    """Note for the explorer whether the claim is one that the standby had received."""
    task = standby.tasks[about.task]
    if task is not None and task.token == about.token:
        return about
    return about._replace(stale=True)


def _raised(state: State, rules: Rules, number: int, task: Task) -> int:
    """Meet no token that anybody remembers; the lowest such token stands for all."""
    token = task.token
    if rules.claim_jumps and state.failovers:
        memories: list[Claim | Sighting | Flush | None] = [state.sighting, state.under_way]
        memories += [claim for process in state.processes for claim in process.claims]
        token = max([token, *(one.token for one in memories if one and one.task == number)])
    return token + 1


# What no longer matters ---------------------------------------------------------------------------


def without_the_void(state: State, rules: Rules) -> State:
    """Leave out what can no longer have an effect, so that fewer states differ.

    A write whose token has passed is refused: it makes no difference what it would have written,
    nor, for one whose sender has gone, that it exists. Where a check is switched off it does.
    """
    tasks, processes, sighting, flush = (
        state.tasks, state.processes, state.sighting, state.under_way
    )  # fmt: skip
    if not rules.accounts:
        tasks = tuple(
            task and task._replace(balance=0, pardons=0, interruptions=0, unrun=0)
            if task and (task.balance or task.pardons or task.interruptions or task.unrun)
            else task
            for task in tasks
        )
    if sighting is not None and rules.rescue_checks_again and not _is_open(state, sighting):
        sighting = None
    if rules.finish_checks_token and rules.finish_checks_status:
        if flush is not None and not _is_open(state, flush):
            flush = None
        processes = tuple(
            process._replace(claims=tuple(_voided(state, claim) for claim in process.claims))
            if process.claims
            else process
            for process in state.processes
        )
    return state._replace(tasks=tasks, processes=processes, sighting=sighting, under_way=flush)


def _is_open(state: State, about: Claim | Flush | Sighting) -> bool:
    return any(
        task is not None and task.status == "RUNNING" and task.token == about.token
        for task in _versions(state, about.task)
    )


def _voided(state: State, claim: Claim) -> Claim:
    over = claim.stage in ("failed", "success?", "failure?")
    if over and not any(
        task is not None and task.token == claim.token for task in _versions(state, claim.task)
    ):
        return claim._replace(stage="succeeded")
    return claim


def _versions(state: State, number: int) -> tuple[Task | None, ...]:
    """Return the row as it is and, if there is a standby, as it will be after a failover."""
    here = (state.tasks[number],)
    return here if state.standby is None else (*here, state.standby.tasks[number])


# Words and small changes --------------------------------------------------------------------------


def _again_or_failed(task: Task, rules: Rules, again: Status) -> Status:
    """Another attempt unless they are used up; a requested cancel stops only another attempt."""
    if task.attempts >= rules.max_attempts:
        return "FAILED"
    return _unless_cancelled(task, rules, again)


def _unless_cancelled(task: Task, rules: Rules, then: Status) -> Status:
    is_cancelled = task.cancel_requested and rules.a_requested_cancel_is_kept
    return "CANCELLED" if is_cancelled else then


def _left_running(task: Task, status: Status) -> Task:
    return task._replace(status=status, holder=None, started=False)


def _with_task(state: State, number: int, task: Task) -> State:
    tasks = (*state.tasks[:number], task, *state.tasks[number + 1 :])
    return state._replace(tasks=tasks)


def _with_claims(state: State, number: int, claims: tuple[Claim, ...]) -> State:
    return _replaced(state, number, state.processes[number]._replace(claims=claims))


def _with_doubt(state: State, number: int, unsure: bool) -> State:
    return _replaced(state, number, state.processes[number]._replace(unsure=unsure))


def _replaced(state: State, number: int, process: Process) -> State:
    processes = (*state.processes[:number], process, *state.processes[number + 1 :])
    return state._replace(processes=processes)


def _restaged(state: State, number: int, claim: Claim, stage: Stage) -> tuple[Claim, ...]:
    return (*_without(state, number, claim), claim._replace(stage=stage))


def _without(state: State, number: int, claim: Claim) -> tuple[Claim, ...]:
    return tuple(other for other in state.processes[number].claims if other != claim)


def _settle(state: State, settled: Settled) -> State:
    return state._replace(settled=state.settled | {settled})


def _new_worker(state: State) -> int:
    used: set[int | None] = {process.worker for process in state.processes}
    used |= state.dead | {task.holder for task in state.tasks if task is not None}
    used |= state.standby.known if state.standby else set()
    return 1 + max(worker for worker in used if worker is not None)


def _task(number: int) -> str:
    return f"task {'AB'[number]}"


def _its(claim: Claim | Flush) -> str:
    return f"{_task(claim.task)} (token {claim.token})"


def _name(state: State, number: int) -> str:
    return f"worker {state.processes[number].worker}"
