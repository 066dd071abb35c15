"""The background functions of this process, by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bgtask.exceptions import InvalidFunction, UnknownTask

if TYPE_CHECKING:
    from bgtask.decorators import BackgroundFunction

_functions: dict[str, BackgroundFunction[Any, Any]] = {}


def register(function: BackgroundFunction[Any, Any]) -> None:
    """
    Make the function known by its name.

    A module that is imported again replaces its own functions; a second function of that name
    elsewhere raises InvalidFunction naming both places.
    """
    known = _functions.get(function.name)
    if known is not None and known.place != function.place:
        raise InvalidFunction(
            f"Two background functions are named {function.name!r}: at {known.place} and at "
            f"{function.place}. Give one of them another name: @background(name=…)."
        )
    _functions[function.name] = function


def find(name: str) -> BackgroundFunction[Any, Any]:
    """The function of this name; raises UnknownTask."""
    try:
        return _functions[name]
    except KeyError:
        raise UnknownTask(name) from None


def names() -> frozenset[str]:
    return frozenset(_functions)


def functions() -> Iterator[BackgroundFunction[Any, Any]]:
    return iter(tuple(_functions.values()))


def knows(name: str) -> bool:
    return name in _functions
