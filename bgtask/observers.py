"""
Notify other parts of bgtask of the attempts that have ended.

``bgtask.backend`` is not below the modules that report outcomes, so it registers an observer here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Observer(Protocol):
    """The arguments are outcomes (``bgtask.lifecycle.attempts``) and new statuses of tasks."""

    def wants(self, outcome: Any, status: str) -> bool:
        """Return whether ``observe`` has anything to do for this outcome. This must be quick."""

    def observe(self, accepted: Sequence[tuple[Any, str]]) -> None:
        """Handle a batch of outcomes. They are stored already."""


_observers: list[Observer] = []


def add_observer(observer: Observer) -> None:
    _observers.append(observer)


def is_observed(outcome: Any, status: str) -> bool:
    """Return whether an observer wants this outcome."""
    return any(observer.wants(outcome, status) for observer in _observers)


def notify(accepted: Sequence[tuple[Any, str]]) -> None:
    """Pass each observer the outcomes that it wants."""
    for observer in _observers:
        if wanted := [pair for pair in accepted if observer.wants(*pair)]:
            observer.observe(wanted)
