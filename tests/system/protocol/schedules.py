"""
Model a schedule: two workers that may die, an editor, a pause and a clock that is set back.

Each whole number is a slot. The steps are those of ``bgtask.schedules.fire`` and ``edit``: what one
transaction does is one step. Each rule that is False is a mutant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.system.protocol.search import Model, Step

SLOTS = 3


@dataclass(frozen=True)
class Rules:
    guards_next: bool = True
    guards_revision: bool = True
    guards_pause: bool = True
    slots_are_unique: bool = True
    is_one_transaction: bool = True
    edit_decides_due_slots: bool = True
    resume_skips_the_pause: bool = True
    edits: int = 1
    jumps: int = 1
    pauses: int = 1


class Read(NamedTuple):
    """What a worker has read of the row, and when."""

    next: int
    revision: int
    clock: int


class State(NamedTuple):
    next: int = 1
    revision: int = 0
    is_paused: bool = False
    last: int = 0
    tasks: tuple[int, ...] = (0,) * (SLOTS + 1)  # By slot. There is no slot 0.
    skipped: frozenset[int] = frozenset()  # Slots of a pause.
    clock: int = 0
    workers: tuple[Read | None, ...] = (None, None)
    edits: int = 0
    jumps: int = 0
    pauses: int = 0

    def with_tasks(self, first: int, last: int, rules: Rules) -> State:
        """Decide these slots, in the transaction that moves ``next`` on."""
        tasks = tuple(
            number + 1
            if first <= slot <= last and not (rules.slots_are_unique and number)
            else number
            for slot, number in enumerate(self.tasks)
        )
        return self._replace(tasks=tasks, next=last + 1, last=last)


def model(rules: Rules = Rules()) -> Model[State]:  # It is frozen.
    return Model(
        State(),
        lambda state: _steps(state, rules),
        (
            each_slot_has_one_task,
            no_slot_is_open_behind_a_later_one,
            a_paused_schedule_decides_nothing,
            an_old_revision_decides_nothing,
            a_slot_of_a_pause_gets_no_task,
        ),
        goal=lambda state: state.clock == SLOTS and not _open(state) and not any(state.workers),
        is_healthy=lambda name: "dies" not in name and "back" not in name and "pause" not in name,
    )


def _steps(state: State, rules: Rules) -> Iterator[Step[State]]:
    if state.clock < SLOTS:
        yield "the clock goes on", state._replace(clock=state.clock + 1)
    if state.jumps < rules.jumps and state.clock:
        yield "the clock is set back", state._replace(clock=state.clock - 1, jumps=state.jumps + 1)
    for number, read in enumerate(state.workers):
        if read is None:
            if state.next <= state.clock and not state.is_paused:
                seen = Read(state.next, state.revision, state.clock)
                yield f"worker {number} reads", _with(state, number, seen)
            continue
        yield f"worker {number} dies", _with(state, number, None)
        done = _with(state, number, None)
        if _is_ours(state, read, rules):
            yield f"worker {number} fires", done.with_tasks(read.next, read.clock, rules)
            if not rules.is_one_transaction:
                moved = done._replace(next=read.clock + 1, last=read.clock)
                yield f"worker {number} dies between two transactions", moved
        else:
            yield f"worker {number} is too late", done
    if state.edits < rules.edits:
        edited = state._replace(edits=state.edits + 1)
        if rules.edit_decides_due_slots and state.next <= state.clock and not state.is_paused:
            edited = edited.with_tasks(state.next, state.clock, rules)
        if state.is_paused:  # The slots of a pause are left out.
            edited = edited._replace(skipped=_skipped(state))
        yield "an operator edits", _moved(edited)
    if state.pauses < rules.pauses and not state.is_paused:
        yield (
            "an operator pauses",
            state._replace(is_paused=True, pauses=state.pauses + 1, revision=state.revision + 1),
        )
    if state.is_paused:
        resumed = state._replace(
            is_paused=False,
            skipped=_skipped(state),
        )
        yield (
            "an operator resumes",
            _moved(resumed) if rules.resume_skips_the_pause else resumed,
        )
    if state.last > state.clock and state.next != state.clock + 1:
        yield "a worker computes the next slot again", state._replace(next=state.clock + 1)


def _skipped(state: State) -> frozenset[int]:
    return state.skipped | frozenset(range(state.next, state.clock + 1))


def _is_ours(state: State, read: Read, rules: Rules) -> bool:
    return (
        (state.next == read.next or not rules.guards_next)
        and (state.revision == read.revision or not rules.guards_revision)
        and (not state.is_paused or not rules.guards_pause)
    )


def _with(state: State, number: int, read: Read | None) -> State:
    workers = [*state.workers]
    workers[number] = read
    return state._replace(workers=tuple(workers))


def _moved(state: State) -> State:
    """Write a definition: the next slot is the first after the clock."""
    return state._replace(next=state.clock + 1, revision=state.revision + 1)


def _open(state: State) -> list[int]:
    """Return the slots that have passed without a decision."""
    return [
        slot
        for slot in range(1, state.clock + 1)
        if not state.tasks[slot] and slot not in state.skipped
    ]


def each_slot_has_one_task(before: State, name: str, after: State) -> bool:
    return max(after.tasks) <= 1


def no_slot_is_open_behind_a_later_one(before: State, name: str, after: State) -> bool:
    decided = [slot for slot, number in enumerate(after.tasks) if number]
    return all(slot > max(decided, default=0) for slot in _open(after) if slot < after.next) and (
        all(slot >= after.next for slot in _open(after)) or after.is_paused
    )


def a_paused_schedule_decides_nothing(before: State, name: str, after: State) -> bool:
    return not before.is_paused or before.tasks == after.tasks


def an_old_revision_decides_nothing(before: State, name: str, after: State) -> bool:
    if "fires" not in name:
        return True
    read = before.workers[int(name.split()[1])]
    return read is not None and (read.revision == before.revision or before.tasks == after.tasks)


def a_slot_of_a_pause_gets_no_task(before: State, name: str, after: State) -> bool:
    """Check this only before the clock is set back, since a slot may pass again after that."""
    return bool(before.jumps) or all(
        before.tasks[slot] == after.tasks[slot] for slot in before.skipped
    )
