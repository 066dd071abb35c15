"""Compute the unique key of a call, by which a second enqueue finds the first task."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from bgtask.exceptions import InvalidOption
from bgtask.redaction import is_secret_name
from bgtask.values import brief, is_encodable

MAX_KEY_CHARACTERS = 200
HELD_WHILE = ("running", "waiting")
ON_CONFLICT = ("skip", "replace", "raise")
# The options of unique tasks that only mean something together with unique=.
FURTHER_OPTIONS = ("unique_while", "unique_for", "on_conflict", "latest")

_NAME_CHARACTERS = 190  # Of a task name in front of a hash, so that the key fits its column.


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """
    The key of one call, and how long the task holds it.

    ``held_while`` is "running" (until the task is finished) or "waiting" (until a worker takes it).
    ``seconds`` is how long after the enqueue it is held at least, or None. ``latest`` is the number
    of seconds after the first enqueue beyond which a replacement does not put the task off.
    """

    name: str
    held_while: str
    seconds: float | None
    on_conflict: str
    latest: float | None


class UniqueRule:
    """How the key of each call of a function is made from the parameters."""

    def __init__(
        self, task_name: str, signature: inspect.Signature, options: Mapping[str, Any]
    ) -> None:
        """Raise InvalidOption if the options don't fit each other or the function's signature."""
        self._task_name = task_name
        self._signature = signature
        self._defaults = _storable_defaults(signature)
        self._unique = options["unique"]
        self.held_while = options.get("unique_while") or HELD_WHILE[0]
        self._seconds = options.get("unique_for")
        self._on_conflict = options.get("on_conflict") or ON_CONFLICT[0]
        self._latest = options.get("latest")
        self._check_options()
        if isinstance(self._unique, str):
            self._check_template()
        elif self._unique is not True:
            self._check_names()

    def key_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> UniqueKey:
        """
        Return the key of a call with these parameters, which JSON can hold.

        The key is the same whether a parameter was passed by position or by keyword, or left to
        its default. Raise InvalidOption if a key that a template makes is empty or too long.
        """
        arguments = self._defaults | self._signature.bind(*args, **kwargs).arguments
        if isinstance(self._unique, str):
            name = self._filled(arguments)
        else:
            if self._unique is not True:
                names = self._unique
                arguments = {name: value for name, value in arguments.items() if name in names}
            text = _json([self._task_name, arguments])
            digest = hashlib.sha256(text.encode()).hexdigest()
            name = f"{self._task_name[:_NAME_CHARACTERS]}:{digest}"
        return UniqueKey(name, self.held_while, self._seconds, self._on_conflict, self._latest)

    def _filled(self, arguments: Mapping[str, Any]) -> str:
        """Return the template with the values. A value that is no text is written as JSON."""
        parts = []
        for literal, field, _spec, _conversion in Formatter().parse(self._unique):
            parts.append(literal)
            if field is not None:
                value = arguments[field]
                parts.append(str.__str__(value) if isinstance(value, str) else _json(value))
        key = "".join(parts)
        if not 1 <= len(key) <= MAX_KEY_CHARACTERS:
            raise InvalidOption(
                f"unique={brief(self._unique)} makes a key of {len(key):,} characters here, and a "
                f"key has 1 to {MAX_KEY_CHARACTERS}. Use a list of parameters instead: bgtask "
                "makes a hash of them, whatever their length."
            )
        if "\x00" in key or not is_encodable(key):
            raise InvalidOption(
                f"unique={brief(self._unique)} makes a key with characters that databases can't "
                "store. Use a list of parameters instead."
            )
        return key

    def _check_options(self) -> None:
        if self._latest is not None and self._on_conflict != "replace":
            raise InvalidOption(
                "latest= limits for how long a replacement puts a task off, so it needs "
                "on_conflict='replace'."
            )
        if self._seconds is not None and self.held_while == "waiting":
            raise InvalidOption(
                "unique_for= holds the key after a worker has taken the task, and "
                "unique_while='waiting' gives it up then. Leave out one of them."
            )

    def _check_names(self) -> None:
        parameters = self._signature.parameters
        if rest := _first(parameters, inspect.Parameter.VAR_POSITIONAL):
            raise InvalidOption(
                f"unique={brief(self._unique)} needs parameters that have names, and "
                f"{self._task_name} takes *{rest}. Use unique=True for all its parameters."
            )
        for name in self._unique:
            self._check_parameter(name, f"unique= names {name!r}")

    def _check_template(self) -> None:
        try:
            parts = list(Formatter().parse(self._unique))
        except ValueError as error:
            raise InvalidOption(
                f"unique={brief(self._unique)} is no key: {error}. Write a parameter as {{name}}, "
                "and a brace that stands for itself twice."
            ) from None
        previous = None
        for literal, field, spec, conversion in parts:
            if field is None:
                previous = None
                continue
            where = f"unique={brief(self._unique)} has {{{field}}}"
            if spec or conversion or not field.isidentifier():
                raise InvalidOption(
                    f"{where}, which is not just the name of a parameter. Write {{name}} without "
                    "an attribute, an index or a format."
                )
            self._check_parameter(field, where)
            if self._signature.parameters[field].default is not inspect.Parameter.empty and (
                field not in self._defaults
            ):
                raise InvalidOption(f"{where}, whose default can't be written into a key.")
            if is_secret_name(field):
                raise InvalidOption(
                    f"{where}, which is named like a secret, and people can read the key. Use a "
                    "list of parameters instead: bgtask makes a hash of them."
                )
            if previous is not None and not literal:
                raise InvalidOption(
                    f"unique={brief(self._unique)} writes {{{previous}}} and {{{field}}} without "
                    "anything between them, so that different values make the same key. Put a "
                    f"separator between them: {{{previous}}}:{{{field}}}."
                )
            previous = field

    def _check_parameter(self, name: str, where: str) -> None:
        parameter = self._signature.parameters.get(name)
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        if parameter is None or parameter.kind in variable:
            named = [
                one.name for one in self._signature.parameters.values() if one.kind not in variable
            ]
            raise InvalidOption(
                f"{where}, which is no parameter of {self._task_name}. There are: "
                f"{', '.join(named) or 'none'}."
            )


def unique_rule(
    task_name: str, signature: inspect.Signature, options: Mapping[str, Any]
) -> UniqueRule | None:
    """
    Return the rule of these options, or None if calls need not be unique.

    Raise InvalidOption if the options don't fit each other or the function's signature.
    """
    if options.get("unique"):
        return UniqueRule(task_name, signature, options)
    for name in FURTHER_OPTIONS:
        if options.get(name) is not None:
            raise InvalidOption(
                f"{name}= only means something with unique=. Add unique=True, a list of "
                "parameters or a key."
            )
    return None


def without_unique(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options without those of unique tasks."""
    return {
        name: value
        for name, value in options.items()
        if name != "unique" and name not in FURTHER_OPTIONS
    }


def _storable_defaults(signature: inspect.Signature) -> dict[str, Any]:
    """
    Return the defaults that JSON can hold.

    A call can't pass the other defaults, so leaving them out mixes up no two calls.
    """
    defaults = {}
    for name, parameter in signature.parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            try:
                _json(parameter.default)
            except (TypeError, ValueError, RecursionError):
                continue
            defaults[name] = parameter.default
    return defaults


def _first(parameters: Mapping[str, inspect.Parameter], kind: Any) -> str | None:
    return next((name for name, one in parameters.items() if one.kind is kind), None)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def as_names(value: Any) -> Collection[str] | None:
    """Return the names of parameters in a list, or None if the value is no list of texts."""
    if not isinstance(value, list | tuple | set | frozenset):
        return None
    return frozenset(value) if all(type(name) is str for name in value) else None
