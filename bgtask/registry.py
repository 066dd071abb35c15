"""Keep the background functions of this process, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter
from typing import Any, Protocol

from bgtask.exceptions import InvalidFunction, UnknownTask


class RegisteredFunction(Protocol):
    """The attributes of a background function that the registry and its users need."""

    name: str
    function: Callable[..., Any]

    @property
    def place(self) -> str: ...

    @property
    def backoff(self) -> Any: ...

    @property
    def parameters(self) -> Mapping[str, Parameter]: ...


_functions: dict[str, RegisteredFunction] = {}


def register(function: RegisteredFunction) -> None:
    """
    Make the function known by its name.

    A module that is imported again replaces its own functions. Raise InvalidFunction, naming both
    places, if a function that is defined elsewhere has this name already.
    """
    known = _functions.get(function.name)
    if known is not None and known.place != function.place:
        raise InvalidFunction(
            f"Two background functions are named {function.name!r}: at {known.place} and at "
            f"{function.place}. Give one of them another name: @background(name=…)."
        )
    _functions[function.name] = function


def find(name: str) -> RegisteredFunction:
    """Return the function of this name; raise UnknownTask if there is none."""
    try:
        return _functions[name]
    except KeyError:
        raise UnknownTask(name) from None


def names() -> frozenset[str]:
    return frozenset(_functions)


def functions() -> Iterator[RegisteredFunction]:
    return iter(tuple(_functions.values()))


def knows(name: str) -> bool:
    return name in _functions
