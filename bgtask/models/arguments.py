"""
Find tasks by the exact value of an argument.

The JSON types of the databases differ from each other, and a LIKE pattern can't parse JSON. So the
database only leaves out tasks that can't match, and Python decides about the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Q

from bgtask import registry
from bgtask.exceptions import MalformedTask, UnknownTask
from bgtask.serialization import load_params

MAX_FUNCTIONS = 200
# Characters that every JSON encoder writes unchanged.
_PLAIN = re.compile(r"[A-Za-z0-9_.:@ -]+")


@dataclass(frozen=True)
class Argument:
    """An argument's name and its JSON value. 1, 1.0, "1" and true are four values."""

    name: str
    value: Any

    def candidates(self) -> Q:
        """Return a condition that all tasks with this argument fulfil. Other tasks may, too."""
        fragment = max(_fragments(self.value), key=len, default="")
        condition = Q(task_params__contains=fragment) if fragment else Q()
        key = max(_PLAIN.findall(self.name), key=len, default="")
        functions = [one for one in registry.names() if self.name in positional_names(one)]
        if not key or self.name.isdigit() or len(functions) > MAX_FUNCTIONS:
            return condition
        return condition & (Q(task_params__contains=key) | Q(task_name__in=sorted(functions)))

    def fits(self, task_name: str, task_params: str) -> bool:
        """Return whether a call has this argument. Return False if its parameters are malformed."""
        try:
            args, kwargs = load_params(task_params)
        except MalformedTask:
            return False
        return any(
            name == self.name and is_same(value, self.value)
            for name, value in named(task_name, args, kwargs)
        )


def positional_names(task_name: str) -> list[str]:
    """Return the names of the positional parameters, or none if the function is unknown here."""
    try:
        parameters = registry.find_loaded(task_name).parameters.values()
    except UnknownTask:
        return []
    return [one.name for one in parameters if one.kind <= one.POSITIONAL_OR_KEYWORD]


def named(task_name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each argument with its name, or with its number if it has no name."""
    names = positional_names(task_name)
    names += [str(index) for index in range(len(names), len(args))]
    yield from zip(names, args, strict=False)
    yield from kwargs.items()


def is_same(one: Any, other: Any) -> bool:
    """Return whether two decoded JSON values are the same, their types included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    return bool(one == other)


def _fragments(value: Any) -> Iterator[str]:
    """Yield texts that the JSON of this value contains, however it is spelled."""
    if isinstance(value, str):
        yield from _PLAIN.findall(value)
    elif isinstance(value, bool) or value is None:
        yield {True: "true", False: "false", None: "null"}[value]
    elif isinstance(value, int):
        yield str(abs(value))
    elif isinstance(value, list):
        for item in value:
            yield from _fragments(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _fragments(key)
            yield from _fragments(item)
    # A float yields no text, since JSON spells it in many ways: 10.0, 1e1.
