"""Keep the background functions of this process, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter
from typing import Any, Protocol

from bgtask.exceptions import InvalidFunction, UnknownTask


class RegisteredFunction(Protocol):
    """What the registry and its users need of a function whose calls are stored as tasks."""

    name: str

    @property
    def place(self) -> str:
        """Return where the function is defined, as ``file:line``."""

    @property
    def parameters(self) -> Mapping[str, Parameter]: ...

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError if the function can't be called with these parameters."""

    def dump_params(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Return the parameters as the JSON that an enqueue stores."""

    def store(self, args: Sequence[Any], kwargs: Mapping[str, Any], **options: Any) -> Any:
        """Store a task for a slot of a schedule, whatever its parameters, and return the row."""

    def backoff_of(self, task: Any) -> Any:
        """Return the rule for the wait after a failed attempt of this task, or None."""

    def run(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the function for this task and return its value."""

    def dump_value(self, task: Any, value: Any) -> str | None:
        """Return the value as JSON, or None. Raise an error if the task must fail instead."""


class Finder(Protocol):
    """What finds functions that no decorator of bgtask has registered."""

    def find(self, name: str) -> RegisteredFunction | None:
        """Return the function of this name, or None. This may import a module."""

    def find_loaded(self, name: str) -> RegisteredFunction | None:
        """Return the function of this name if its module is loaded, or None."""

    def names(self) -> Iterator[str]:
        """Yield the names of the functions that are loaded, as far as they are known."""


# Returns the registered form of a task that no decorator of bgtask has made, or None.
Wrapper = Callable[[Any], RegisteredFunction | None]

_functions: dict[str, RegisteredFunction] = {}
_finders: list[Finder] = []
_wrappers: list[Wrapper] = []


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


def add_finder(finder: Finder) -> None:
    """Ask this finder for the names that are not registered."""
    _finders.append(finder)


def add_wrapper(wrapper: Wrapper) -> None:
    """Ask this wrapper for the registered form of objects that are no background functions."""
    _wrappers.append(wrapper)


def wrapped(task: Any) -> RegisteredFunction | None:
    """Return the registered form of this object, or None if it is no task."""
    for wrapper in _wrappers:
        if (function := wrapper(task)) is not None:
            return function
    return None


def has_finders() -> bool:
    """Return whether there can be tasks of functions that ``@background`` does not know."""
    return bool(_finders)


def find(name: str) -> RegisteredFunction:
    """
    Return the function of this name; raise UnknownTask if there is none.

    A finder may import the module of the function, so only call this where tasks are run or
    their results are read.
    """
    function = _functions.get(name)
    if function is not None:
        return function
    if isinstance(name, str):  # SQLite stores bytes in any column.
        for finder in _finders:
            if (function := finder.find(name)) is not None:
                return function
    raise UnknownTask(name)


def find_loaded(name: str) -> RegisteredFunction:
    """Return the function of this name; raise UnknownTask if it is not loaded."""
    function = _functions.get(name)
    if function is not None:
        return function
    if isinstance(name, str):
        for finder in _finders:
            if (function := finder.find_loaded(name)) is not None:
                return function
    raise UnknownTask(name)


def names() -> frozenset[str]:
    """Return the names of all functions that are loaded."""
    return frozenset(_functions).union(*(finder.names() for finder in _finders))


def functions() -> Iterator[RegisteredFunction]:
    """Return the functions that are decorated with ``@background``."""
    return iter(tuple(_functions.values()))


def knows(name: str) -> bool:
    """Return whether this process can run tasks of this name. See ``find``."""
    if name in _functions:
        return True
    if not _finders:
        return False
    try:
        find(name)
    except UnknownTask:
        return False
    return True
