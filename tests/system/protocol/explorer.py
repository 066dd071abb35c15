"""Visit every state of the protocol, shortest way first, and tell the first story that goes wrong.

States that differ only in names are one state: tokens count as first, second, third; worker rows
are numbered in the order in which they are met; processes may change places. So the protocol,
which knows no bound on claims or on workers, has finitely many states.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from .invariants import INVARIANTS, Invariant
from .model import (
    FINISHED,
    Claim,
    Flush,
    Process,
    Rules,
    Settled,
    Sighting,
    Standby,
    State,
    Task,
    beginning,
    steps,
    without_the_void,
)

Named = TypeVar("Named", Claim, Sighting, Flush, Settled)


@dataclass(frozen=True)
class Exploration:
    """What was found: how many states there are, and the shortest story that breaks a promise."""

    states: int
    moves: int
    violation: str | None = None
    broken: str | None = None  # the name of the invariant
    story: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        if self.violation is None:
            return f"no violation in {self.states} states and {self.moves} moves"
        told = "\n".join(f"  {number}. {line}" for number, line in enumerate(self.story, 1))
        return f"{self.broken}: {self.violation}, after\n{told}"


def explore(rules: Rules, invariants: Iterable[Invariant] = INVARIANTS) -> Exploration:
    """Breadth first through all states; then ask of each whether it can still come to an end."""
    invariants = tuple(invariants)
    first = canonical(beginning(rules), rules)
    numbers = {first: 0}
    found = [first]
    reached_from = [-1]
    healthy_ways_in: list[list[int]] = [[]]
    moves = 0
    for number, state in enumerate(found):  # the list grows while it is walked
        for step in steps(state, rules):
            moves += 1
            for invariant in invariants:
                violation = invariant(state, step, rules)
                if violation is not None:
                    state, story = _story(found, reached_from, number, rules)
                    last, violation = _broken(state, rules, invariant)
                    name, story = invariant.__name__, (*story, last)
                    return Exploration(len(found), moves, violation, name, story)
            after = canonical(step.after, rules)
            known = numbers.get(after)
            if known is None:
                known = numbers[after] = len(found)
                found.append(after)
                reached_from.append(number)
                healthy_ways_in.append([])
            if step.nature == "protocol":
                healthy_ways_in[known].append(number)
    stuck = _first_stuck(found, healthy_ways_in)
    if stuck is not None:
        violation = "no healthy step leads to an end from here"
        _, story = _story(found, reached_from, stuck, rules)
        return Exploration(len(found), moves, violation, "nothing_is_stuck", story)
    return Exploration(len(found), moves)


def is_quiet(state: State) -> bool:
    """Every task has ended and no process remembers anything."""
    return all(task is not None and task.status in FINISHED for task in state.tasks) and not any(
        process.claims or process.unsure for process in state.processes
    )


def _first_stuck(found: list[State], healthy_ways_in: list[list[int]]) -> int | None:
    """Return the number of the first state that cannot reach a quiet one in the healthy protocol.

    Walk backwards from the quiet states. Neither bad luck nor an operator may be needed.
    """
    can_end = [is_quiet(state) for state in found]
    open_ends = [number for number, ends in enumerate(can_end) if ends]
    while open_ends:
        for number in healthy_ways_in[open_ends.pop()]:
            if not can_end[number]:
                can_end[number] = True
                open_ends.append(number)
    return can_end.index(False) if False in can_end else None


def _story(
    found: list[State], reached_from: list[int], last: int, rules: Rules
) -> tuple[State, tuple[str, ...]]:
    """Tell the way to a state from the beginning, with the real names and tokens."""
    way = [last]
    while reached_from[way[-1]] >= 0:
        way.append(reached_from[way[-1]])
    state = beginning(rules)
    sentences: list[str] = []
    for number in reversed(way[:-1]):
        step = next(s for s in steps(state, rules) if canonical(s.after, rules) == found[number])
        sentences.append(step.sentence)
        state = step.after
    return state, tuple(sentences)


def _broken(state: State, rules: Rules, invariant: Invariant) -> tuple[str, str]:
    """Return the step from this state that breaks a promise, and how it breaks it."""
    for step in steps(state, rules):
        violation = invariant(state, step, rules)
        if violation is not None:
            return step.sentence, violation
    raise AssertionError("states that differ only in names break the same promises")


def canonical(state: State, rules: Rules) -> State:
    """Return the state that stands for all states that differ from it only in names."""
    state = without_the_void(state, rules)
    tasks, processes, dead, retired, stops, sighting, flush, settled, standby, failovers = state
    ranks = _token_ranks(state)
    if settled:
        settled = ranks.still_remembered(settled)
    if standby is not None:
        standby = standby._replace(settled=ranks.still_remembered(standby.settled))
    if ranks.differ:
        tasks = ranks.rows(tasks)
        processes = tuple(
            process._replace(claims=tuple(ranks.named(claim) for claim in process.claims))
            for process in processes
        )
        sighting = sighting and ranks.named(sighting)
        flush = flush and ranks.named(flush)
        settled = frozenset(ranks.named(s) for s in settled)
        if standby is not None:
            standby = standby._replace(
                tasks=ranks.rows(standby.tasks),
                settled=frozenset(ranks.named(s) for s in standby.settled),
            )
    in_line = sorted(
        (
            process if len(process.claims) < 2 else process._replace(claims=_sorted(process.claims))
            for process in processes
        ),
        key=lambda process: _place(process, dead, retired, tasks, standby),
    )
    numbers: dict[int, int] = {}
    for process in in_line:
        numbers.setdefault(process.worker, len(numbers))
    for task in (*tasks, *(standby.tasks if standby else ())):
        if task is not None and task.holder is not None:
            numbers.setdefault(task.holder, len(numbers))
    if any(old != new for old, new in numbers.items()):
        tasks = _held_by(tasks, numbers)
        in_line = [process._replace(worker=numbers[process.worker]) for process in in_line]
    if dead:
        dead = frozenset(new for w in dead if (new := numbers.get(w)) is not None)
    if retired:
        retired = frozenset(new for w in retired if (new := numbers.get(w)) is not None)
    if standby is not None:
        standby = Standby(
            _held_by(standby.tasks, numbers),
            frozenset(new for w in standby.dead if (new := numbers.get(w)) is not None),
            frozenset(new for w in standby.known if (new := numbers.get(w)) is not None),
            standby.settled,
        )
    return State(
        tasks, tuple(in_line), dead, retired, stops, sighting, flush, settled, standby, failovers
    )


def _held_by(tasks: tuple[Task | None, ...], numbers: dict[int, int]) -> tuple[Task | None, ...]:
    """Return the rows with the new numbers of their workers."""
    return tuple(
        task._replace(holder=numbers[task.holder])
        if task is not None and task.holder is not None
        else task
        for task in tasks
    )


def _place(
    process: Process,
    dead: frozenset[int],
    retired: frozenset[int],
    tasks: tuple[Task | None, ...],
    standby: Standby | None,
) -> tuple[object, ...]:
    """Where a process stands in line: by everything about it but its name."""
    worker = process.worker
    held = tuple(t is not None and t.holder == worker for t in tasks)
    place = (worker in dead, worker in retired, process.unsure, process.claims, held)
    if standby is None:
        return place
    there = tuple(t is not None and t.holder == worker for t in standby.tasks)
    return (*place, worker in standby.dead, worker in standby.known, there)


def _sorted(claims: tuple[Claim, ...]) -> tuple[Claim, ...]:
    return tuple(sorted(claims))


class _Ranks:
    """For each task, its tokens that anybody remembers, as first, second, third."""

    def __init__(self, remembered: set[tuple[int, int]], rows: set[tuple[int, int]]) -> None:
        self.remembered = remembered
        self._ranks: dict[tuple[int, int], int] = {}
        self.differ = False
        task, rank = -1, 0
        for pair in sorted(remembered | rows):
            task, rank = (task, rank + 1) if pair[0] == task else (pair[0], 0)
            self._ranks[pair] = rank
            self.differ = self.differ or rank != pair[1]

    def named(self, about: Named) -> Named:
        """Return ``about`` with the rank of its token in place of the token."""
        return about._replace(token=self._ranks[about.task, about.token])

    def rows(self, tasks: tuple[Task | None, ...]) -> tuple[Task | None, ...]:
        return tuple(
            task if task is None else task._replace(token=self._ranks[number, task.token])
            for number, task in enumerate(tasks)
        )

    def still_remembered(self, settled: frozenset[Settled]) -> frozenset[Settled]:
        return frozenset(s for s in settled if (s.task, s.token) in self.remembered)


def _token_ranks(state: State) -> _Ranks:
    remembered = {(c.task, c.token) for process in state.processes for c in process.claims}
    for about in (state.sighting, state.under_way):
        if about is not None:
            remembered.add((about.task, about.token))
    stored = [state.tasks, *([state.standby.tasks] if state.standby else [])]
    rows = {
        # A task that is not yet enqueued will begin with 0, which stays the lowest.
        (number, 0 if task is None else task.token)
        for tasks in stored
        for number, task in enumerate(tasks)
    }
    return _Ranks(remembered, rows)
