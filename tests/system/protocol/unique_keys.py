"""
Model unique keys: calls with one name, workers that die, retries, and an operator who requeues.

What one statement does is one step. Each rule that is False is a mutant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.system.protocol.search import Model, Step

ROWS = 3


@dataclass(frozen=True)
class Rules:
    held_while: str = "running"
    insert_needs_a_free_key: bool = True
    claim_gives_up_waiting_key: bool = True
    end_gives_up_key: bool = True
    rescue_gives_up_key: bool = True
    retry_keeps_key: bool = True
    requeue_needs_a_free_key: bool = True
    requeue_takes_the_key: bool = True
    a_release_takes_no_key: bool = True
    requeues: int = 1


class Row(NamedTuple):
    status: str = "READY"
    holds: bool = True
    was_claimed: bool = False


class State(NamedTuple):
    rows: tuple[Row, ...] = ()
    failed: str = ""  # The move that the unique index has refused.
    requeues: int = 0


def model(rules: Rules = Rules()) -> Model[State]:  # It is frozen.
    return Model(
        State(),
        lambda state: _steps(state, rules),
        (
            two_rows_never_hold_one_key,
            an_unclaimed_live_row_holds_its_key,
            no_move_fails,
            a_finished_row_holds_no_key,
            *(
                (one_name_is_live_once,)
                if rules.held_while == "running"
                else (a_running_row_holds_no_waiting_key,)
            ),
        ),
        goal=lambda state: all(row.status == "DONE" for row in state.rows),
        is_healthy=lambda name: "dies" not in name,
    )


def _steps(state: State, rules: Rules) -> Iterator[Step[State]]:
    if len(state.rows) < ROWS and (not _is_held(state) or not rules.insert_needs_a_free_key):
        yield "a call is stored", state._replace(rows=(*state.rows, Row()))
    for number, row in enumerate(state.rows):
        for name, after in _moves(state, number, row, rules):
            rows = (*state.rows[:number], after, *state.rows[number + 1 :])
            is_refused = after.holds and not row.holds and _is_held(state)
            requeues = state.requeues + (name == "requeued")
            yield (
                f"row {number} is {name}",
                State(rows, failed=name if is_refused else state.failed, requeues=requeues),
            )


def _moves(state: State, number: int, row: Row, rules: Rules) -> Iterator[tuple[str, Row]]:
    waits_only = rules.held_while == "waiting"
    match row.status:
        case "READY":
            gives_up = waits_only and rules.claim_gives_up_waiting_key
            yield "claimed", Row("RUNNING", row.holds and not gives_up, True)
            yield "cancelled", Row("DONE", row.holds and not rules.end_gives_up_key, True)
        case "RUNNING":
            yield "finished", Row("DONE", row.holds and not rules.end_gives_up_key, True)
            yield "retried", Row("READY", row.holds and rules.retry_keeps_key, True)
            taken = row.holds or not rules.a_release_takes_no_key
            yield "released", Row("READY", taken, True)
            yield "rescued after its worker dies", Row("READY", row.holds, True)
            keeps = row.holds and not rules.rescue_gives_up_key
            yield "given up after its worker dies", Row("DONE", keeps, True)
        case "DONE" if state.requeues < rules.requeues:
            if not rules.requeue_needs_a_free_key or not _is_held(state) or row.holds:
                yield "requeued", Row("READY", rules.requeue_takes_the_key, False)


def _is_held(state: State) -> bool:
    return any(row.holds for row in state.rows)


def two_rows_never_hold_one_key(before: State, name: str, after: State) -> bool:
    return sum(row.holds for row in after.rows) <= 1


def an_unclaimed_live_row_holds_its_key(before: State, name: str, after: State) -> bool:
    return all(row.holds for row in after.rows if row.status == "READY" and not row.was_claimed)


def no_move_fails(before: State, name: str, after: State) -> bool:
    return not after.failed


def a_finished_row_holds_no_key(before: State, name: str, after: State) -> bool:
    return not any(row.holds for row in after.rows if row.status == "DONE")


def a_running_row_holds_no_waiting_key(before: State, name: str, after: State) -> bool:
    return not any(row.holds for row in after.rows if row.status == "RUNNING")


def one_name_is_live_once(before: State, name: str, after: State) -> bool:
    return sum(row.status != "DONE" for row in after.rows) <= 1
