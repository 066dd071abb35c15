"""Format arguments and results as readable JSON. Values that are named like secrets are masked."""

from __future__ import annotations

import json
from typing import Any

from bgtask.exceptions import MalformedTask
from bgtask.models import Schedule, Task
from bgtask.redaction import MASK, is_secret_name, redact_urls
from bgtask_admin.ui.formatting import short, visible


def masked(value: Any, name: str = "") -> Any:
    """Return the value with a mask for each secret name, at any depth."""
    if name and is_secret_name(name) and not isinstance(value, bool | None):
        return MASK
    if isinstance(value, dict):
        return {key: masked(item, str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    if isinstance(value, str):
        return redact_urls(value)
    return value


def arguments_of(task: Task | Schedule) -> str:
    """Return the arguments as indented JSON, or an error text if they can't be read."""
    try:
        return _pretty(masked(task.named_params()))
    except MalformedTask as error:
        return str(error)


def arguments_in_a_line(task: Task, length: int = 100) -> str:
    try:
        named = masked(task.named_params())
    except MalformedTask as error:
        return short(error, length)
    said = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in named.items())
    return short(", ".join(said), length)


def result_of(task: Task) -> str:
    if task.return_value is None:
        return ""
    try:
        return _pretty(masked(json.loads(task.return_value)))
    except (ValueError, RecursionError):
        return visible(task.return_value, lines=True)


def _pretty(value: Any) -> str:
    return visible(json.dumps(value, indent=2, ensure_ascii=False), lines=True)
