"""Convert parameters and return values to JSON text, or refuse them with a remedy.

Accepted values come back as they went in, with two exceptions. Tuples come back as lists, and the
two halves of a character (surrogates) come back joined. The text is pure ASCII, so that every
database can store it. It is never stored in a database's JSON type, because databases disagree on
numbers and on NUL.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from django.db.models import Model, QuerySet
from django.utils.datastructures import MultiValueDict
from django.utils.functional import Promise

from bgtask.conf import MIN_PARAMS_BYTES, get_settings
from bgtask.exceptions import InvalidParameters, MalformedTask
from bgtask.values import brief

MAX_DEPTH = 100
MAX_INTEGER_BITS = 13_000  # About 3,900 digits. Python reads at most 4,300.

_ATOMS = frozenset({str, bool, type(None)})
# Decoded numbers need no check, because the decoder accepts only numbers that JSON has.
_SCALARS = _ATOMS | {int, float}
_encode = json.JSONEncoder(check_circular=False, allow_nan=False).encode


def dump_params(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return ``[args, kwargs]`` as JSON; raise InvalidParameters naming the place and remedy."""
    for index, value in enumerate(args):
        if type(value) not in _ATOMS:
            _check(value, ("args", index))
    for name, value in kwargs.items():
        if type(value) not in _ATOMS:
            _check(value, ("kwargs", name))
    text = _encode((args, kwargs))
    if len(text) > MIN_PARAMS_BYTES and len(text) > (limit := get_settings().max_params_bytes):
        raise InvalidParameters(
            f"The parameters take {len(text):,} bytes as JSON, {_greatest(args, kwargs)} most of "
            f"them, and {limit:,} are allowed. Keep large data in a model or a file and pass its "
            "key, or raise BGTASK['MAX_PARAMS_BYTES']."
        )
    return text


def load_params(text: str) -> tuple[list[Any], dict[str, Any]]:
    """Return ``(args, kwargs)`` of a stored task; raise MalformedTask, and no other error."""
    if len(text) > MIN_PARAMS_BYTES and len(text) > (limit := get_settings().max_params_bytes):
        raise MalformedTask(f"task_params has {len(text):,} characters, of {limit:,} allowed.")
    try:
        params = _decode(text)
        if not (
            isinstance(params, list)
            and len(params) == 2
            and isinstance(params[0], list)
            and isinstance(params[1], dict)
        ):
            raise MalformedTask("task_params is JSON, but not of the form [[…], {…}].")
        for value in (*params[0], *params[1].values()):
            if type(value) not in _SCALARS:
                _check(value, ("task_params",))
    except MalformedTask:
        raise
    except RecursionError:
        raise MalformedTask("task_params is nested too deeply.") from None
    except (ValueError, TypeError) as error:
        raise MalformedTask(f"task_params is not valid JSON: {_brief(str(error))}") from None
    except InvalidParameters as error:
        raise MalformedTask(f"task_params cannot be used: {error}") from None
    return params[0], params[1]


def dump_value(value: Any) -> str | None:
    """Return the value as JSON, or None for None; raise InvalidParameters if JSON can't hold it."""
    if value is None:
        return None
    _check(value, ("return value",))
    text = _encode(value)
    if len(text) > MIN_PARAMS_BYTES and len(text) > (limit := get_settings().max_params_bytes):
        raise InvalidParameters(f"It takes {len(text):,} bytes as JSON, of {limit:,} allowed.")
    return text


def _check(value: Any, path: tuple[Any, ...]) -> None:
    """Raise InvalidParameters if JSON can't hold the value, or would change its type."""
    kind = type(value)
    if kind in _ATOMS:
        return
    if isinstance(value, str | bool):
        return
    if isinstance(value, int):
        if value.bit_length() > MAX_INTEGER_BITS:
            _refuse(path, "an integer of thousands of digits", "pass it as a string")
    elif isinstance(value, float):
        if not math.isfinite(value):
            _refuse(path, f"{brief(value)}, which JSON does not have", "pass None instead")
    elif isinstance(value, list | tuple):
        _check_depth(path)
        for index, item in enumerate(value):
            if type(item) not in _ATOMS:
                _check(item, (*path, index))
    elif isinstance(value, MultiValueDict):
        _refuse(
            path,
            f"a {kind.__module__}.{kind.__qualname__}, of whose values all but the last would be "
            "lost",
            "pass .dict(), or dict(….lists())",
        )
    elif isinstance(value, dict):
        _check_depth(path)
        for key, item in value.items():
            if not isinstance(key, str):
                _refuse(
                    path,
                    f"a dictionary with the key {brief(key)}, which would come back as a "
                    "string or not at all",
                    "use strings as keys",
                )
            if type(item) not in _ATOMS:
                _check(item, (*path, key))
    else:
        _refuse(path, f"a {kind.__module__}.{kind.__qualname__}", _remedy(value))


def _check_depth(path: tuple[Any, ...]) -> None:
    if len(path) > MAX_DEPTH:
        _refuse(path[:3], f"nested more than {MAX_DEPTH} levels deep", "flatten it, or pass a key")


def _refuse(path: tuple[Any, ...], what: str, remedy: str) -> NoReturn:
    raise InvalidParameters(
        f"{_spell(path)} is {what}. Parameters are kept as JSON: {remedy}."
    ) from None


def _remedy(value: Any) -> str:
    match value:
        case Model():
            return "pass the primary key (.pk) and look the object up in the task"
        case QuerySet():
            return "pass a list of primary keys and query again in the task"
        case datetime.datetime() | datetime.date() | datetime.time():
            return "pass .isoformat() and parse it in the task"
        case datetime.timedelta():
            return "pass .total_seconds()"
        case bytes() | bytearray() | memoryview():
            return "pass text, for instance base64, or store the data and pass its key"
        case decimal.Decimal() | uuid.UUID():
            return "pass str(…) and convert it in the task"
        case Promise():
            return "pass str(…), in the language of now, or translate in the task"
        case set() | frozenset():
            return "pass a sorted list"
        case _ if isinstance(value, Iterable):
            return "pass a list"
        case _:
            return "pass strings, numbers, lists and dictionaries of these"


def _greatest(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    values: dict[tuple[str, int | str], Any] = {
        ("args", index): value for index, value in enumerate(args)
    }
    values |= {("kwargs", name): value for name, value in kwargs.items()}
    return _spell(max(values, key=lambda path: len(_encode(values[path]))))


def _spell(path: tuple[Any, ...]) -> str:
    """Return the path as Python code: ``args[0]['key'][3]``."""
    if not path:
        return "The whole"
    head, *rest = path
    return str(head) + "".join(f"[{_brief(brief(step))}]" for step in rest)


def _brief(text: str, length: int = 80) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{_brief(digits)} is beyond what a number can be")
    return number


_decode = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite).decode
