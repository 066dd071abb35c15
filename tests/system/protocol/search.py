"""Search all states of a small model, the shortest way first, for one that breaks a promise."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

State = TypeVar("State", bound=Hashable)
# The name of a step and the state after it.
Step = tuple[str, State]


@dataclass(frozen=True)
class Found:
    """How many states there are, and the shortest story that breaks a promise, if any."""

    states: int
    broken: str = ""
    story: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Model(Generic[State]):
    """
    A model: where it begins, its steps, and what must be true of each step and of each state.

    ``promises`` get the state before a step, the name of the step and the state after it, and
    return whether the step is allowed. From each state, healthy steps must lead to a ``goal``.
    """

    beginning: State
    steps: Callable[[State], Iterable[Step]]
    promises: Sequence[Callable[[State, str, State], bool]]
    goal: Callable[[State], bool]
    is_healthy: Callable[[str], bool] = lambda name: True


def search(model: Model[State]) -> Found:
    reached: dict[State, tuple[State | None, str]] = {model.beginning: (None, "")}
    ways_in: dict[State, list[State]] = {}
    found = [model.beginning]
    for state in found:  # The list grows while it is walked.
        for name, after in model.steps(state):
            for promise in model.promises:
                if not promise(state, name, after):
                    story = (*_story(reached, state), name)
                    return Found(len(found), promise.__name__, story)
            if after not in reached:
                reached[after] = state, name
                found.append(after)
            if model.is_healthy(name):
                ways_in.setdefault(after, []).append(state)
    can_end = {state for state in found if model.goal(state)}
    open_ends = list(can_end)
    while open_ends:
        for before in ways_in.get(open_ends.pop(), ()):
            if before not in can_end:
                can_end.add(before)
                open_ends.append(before)
    for state in found:
        if state not in can_end:
            return Found(len(found), "nothing_is_stuck", _story(reached, state))
    return Found(len(found))


def _story(reached: dict[State, tuple[State | None, str]], state: State) -> tuple[str, ...]:
    names = []
    at: State | None = state
    while at is not None:
        at, name = reached[at]
        names.append(name)
    return tuple(reversed(names[:-1]))
