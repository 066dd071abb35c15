"""Convert arguments and return values as Django's API does, then to the JSON that bgtask stores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bgtask import serialization
from bgtask.backend import api
from bgtask.exceptions import InvalidParameters

dump_params = serialization.dump_params


def normalized(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments as JSON will give them back; raise TypeError if JSON can't."""
    return _as_json(list(args)), {str(name): _as_json(value) for name, value in kwargs.items()}


def dump_value(value: Any) -> str | None:
    """Return the value as JSON, or None for None; raise TypeError if JSON can't hold it."""
    return serialization.dump_value(_as_json(value))


def _as_json(value: Any) -> Any:
    if value is None or type(value) in (str, int, bool):
        return value
    try:
        return _with_text_keys(api.normalize_json(value))
    except RecursionError:
        raise InvalidParameters(
            "The value is nested too deeply, or contains itself. Flatten it, or pass a key."
        ) from None


def _with_text_keys(value: Any) -> Any:
    """Make each key a string, as ``json.dumps`` does, because the other backends do so."""
    if isinstance(value, dict):
        return {_text_key(key): _with_text_keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_text_keys(item) for item in value]
    return value


def _text_key(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(key, allow_nan=False)
