"""The options of a task, at the decorator and at the call: what they may be."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypedDict

from django.conf import settings
from django.utils import timezone

from bgtask.backoff import Backoff, as_seconds
from bgtask.conf import LONGEST
from bgtask.exceptions import InvalidOption

Schedule = int | float | timedelta | datetime | None

_QUEUE = re.compile(r"[A-Za-z0-9_.-]{1,100}", re.ASCII)


class CallOptions(TypedDict, total=False):
    """What may be said at the call."""

    schedule: Schedule
    run_after: Schedule  # The same option as schedule.
    priority: int
    queue: str | None
    queue_name: str | None  # The same option as queue.
    verbose_name: str | None


class TaskOptions(CallOptions, total=False):
    """What may be said at the decorator."""

    max_attempts: int | None
    max_run_time: float | timedelta | None
    backoff: Backoff | None


# Second names, as Django's own tasks have them. Tasks are stored by the first name.
SECOND_NAMES = {"run_after": "schedule", "queue_name": "queue"}

_REPEAT = (
    "tasks do not repeat yet; let the function enqueue its next run with schedule=…, or let cron "
    "enqueue it"
)
# What the ancestors took besides: the values that ask for nothing, and the remedy for others.
LEGACY_OPTIONS: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "creator": ((None,), "pass the primary key as a parameter, or use verbose_name="),
    "repeat": ((None, 0), _REPEAT),
    "repeat_until": ((None,), _REPEAT),
    "remove_existing_tasks": (
        (None, False),
        "cancel them first: Task.objects.filter(task_name=…, task_params=…).cancel()",
    ),
}


def drop_legacy(options: dict[str, Any], names: Set[str] = LEGACY_OPTIONS.keys()) -> None:
    """Take out the ancestors' options that ask for nothing; raise InvalidOption for any other."""
    for name in names & options.keys():
        neutral, remedy = LEGACY_OPTIONS[name]
        if options.pop(name) not in neutral:
            raise InvalidOption(f"{name}= is not supported: {remedy}.")


def check_options(options: dict[str, Any]) -> dict[str, Any]:
    """
    Return the options by their first names, and in their plain form.

    Raise InvalidOption, with the name of the option, if one is wrong or given by both names.
    """
    check_names(options, _CHECKS.keys())
    for second, first in SECOND_NAMES.items():
        if first in options and second in options:
            raise InvalidOption(
                f"{first}= and {second}= are two names of one option. Give one of them."
            )
    return {SECOND_NAMES.get(name, name): _CHECKS[name](value) for name, value in options.items()}


def check_names(options: Mapping[str, Any], known: Set[str]) -> None:
    """Raise InvalidOption for an option that is none of the known."""
    if unknown := options.keys() - known:
        raise InvalidOption(
            f"Unknown option {min(unknown)!r}. There are: {', '.join(sorted(known))}."
        )


def check_schedule(value: Any, name: str = "schedule") -> float | datetime | None:
    """None for at once, seconds from now, or an aware (without USE_TZ, a naive) datetime."""
    if value is None:
        return None
    if isinstance(value, datetime):
        if abs(value.year - timezone.now().year) > 100:
            raise InvalidOption(f"{name}={value!r} is not within a hundred years.")
        if settings.USE_TZ and timezone.is_naive(value):
            return timezone.make_aware(value)
        if not settings.USE_TZ and timezone.is_aware(value):
            return timezone.make_naive(value)
        return value
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidOption(f"{name} takes seconds, a timedelta or a datetime, not {value!r}.")
    if not abs(value) <= LONGEST:
        raise InvalidOption(f"{name}={brief(value)} is not within a hundred years.")
    return float(value)


def check_queue(value: Any, name: str = "queue") -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _QUEUE.fullmatch(value):
        raise InvalidOption(
            f"{name}={value!r} is no name of a queue: 1 to 100 of the characters "
            "A-Z a-z 0-9 _ . - are."
        )
    return str(value)


def _priority(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**31:
        raise InvalidOption(
            "priority takes a whole number of less than 2,147,483,648, higher first, not "
            f"{brief(value)}."
        )
    return int(value)


def brief(value: Any) -> str:
    """Its repr; Python refuses that of a number of thousands of digits."""
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"


def _verbose_name(value: Any) -> str:
    if value is None:
        return ""
    name = str(value).replace("\x00", "\ufffd").encode("utf-8", "backslashreplace").decode()
    return name if len(name) <= 255 else f"{name[:254]}…"


def _max_attempts(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise InvalidOption(
            "max_attempts takes the number of executions, from 1 to 2,147,483,647, not "
            f"{brief(value)}."
        )
    return value


def _max_run_time(value: Any) -> float | None:
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidOption(f"max_run_time takes seconds or a timedelta, not {value!r}.")
    if not 0 < seconds <= LONGEST:
        raise InvalidOption(f"max_run_time={brief(value)} is not above zero, or too long.")
    return float(seconds)


def _backoff(value: Any) -> Backoff | None:
    if value is None or callable(value):
        return value  # type: ignore[no-any-return]
    try:
        if isinstance(value, bool | str):
            raise TypeError
        return as_seconds(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidOption(
            "backoff takes seconds, a timedelta, or a function of the number of attempts that "
            f"returns one of these, not {brief(value)}."
        ) from None


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "schedule": check_schedule,
    "run_after": partial(check_schedule, name="run_after"),
    "priority": _priority,
    "queue": check_queue,
    "queue_name": partial(check_queue, name="queue_name"),
    "verbose_name": _verbose_name,
    "max_attempts": _max_attempts,
    "max_run_time": _max_run_time,
    "backoff": _backoff,
}
