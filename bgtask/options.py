"""Define and validate the options of a task, at the decorator and at the call."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from datetime import datetime, timedelta
from functools import partial
from types import NoneType
from typing import Any, Literal, NoReturn, TypedDict

from django.conf import settings
from django.utils import timezone

from bgtask.conf import MAX_DURATION_SECONDS
from bgtask.exceptions import InvalidOption
from bgtask.retries import Backoff, as_seconds
from bgtask.unique import HELD_WHILE, ON_CONFLICT, as_names
from bgtask.values import as_text, brief, cut_end, replace_unstorable

Schedule = int | float | timedelta | datetime | None

_QUEUE = re.compile(r"[A-Za-z0-9_.-]{1,100}", re.ASCII)


class CallOptions(TypedDict, total=False):
    """The options that can be given at the call."""

    schedule: Schedule
    run_after: Schedule  # The same option as schedule.
    priority: int
    queue: str | None
    queue_name: str | None  # The same option as queue.
    verbose_name: str | None


class UsingOptions(CallOptions, total=False):
    """The options that can be given to ``using()``."""

    unique: bool | str | Sequence[str] | None
    unique_while: Literal["running", "waiting"] | None
    unique_for: float | timedelta | None
    on_conflict: Literal["skip", "replace", "raise"] | None
    latest: float | timedelta | None


class TaskOptions(UsingOptions, total=False):
    """The options that can be given at the decorator."""

    max_attempts: int | None
    max_run_time: float | timedelta | None
    backoff: Backoff | None


# Second names, which Django's own tasks use. Tasks are stored under the first names.
SECOND_NAMES = {"run_after": "schedule", "queue_name": "queue"}

_REPEAT = (
    "declare a schedule instead, with @recurring(every=…) above @background. Its page in the "
    "documentation is docs/schedules.md"
)
# Other options of the ancestors: values that ask for nothing, and a remedy for other values.
LEGACY_OPTIONS: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "creator": ((None,), "pass the primary key as a parameter, or use verbose_name="),
    "repeat": ((None, 0), _REPEAT),
    "repeat_until": ((None,), _REPEAT),
    "remove_existing_tasks": (
        (None, False),
        "use unique=True and on_conflict='replace', or cancel them first: "
        "Task.objects.filter(task_name=…, task_params=…).cancel()",
    ),
}


def drop_legacy(options: dict[str, Any], names: Set[str] = LEGACY_OPTIONS.keys()) -> None:
    """Remove the ancestors' options that ask for nothing; raise InvalidOption for any other."""
    for name in names & options.keys():
        neutral, remedy = LEGACY_OPTIONS[name]
        value = options.pop(name)
        # Compare only what is surely comparable: an array, for instance, has no single answer.
        if not isinstance(value, int | float | NoneType) or value not in neutral:
            raise InvalidOption(f"{name}= is not supported: {remedy}.")


def check_options(options: dict[str, Any]) -> dict[str, Any]:
    """
    Return the options by their first names, with plain values.

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
    """Raise InvalidOption if an option is not among the known ones."""
    if unknown := options.keys() - known:
        raise InvalidOption(
            f"Unknown option {brief(min(unknown))}. There are: {', '.join(sorted(known))}."
        )


def check_schedule(value: Any, name: str = "schedule") -> float | datetime | None:
    """
    Return None (run at once), seconds from now, or a datetime.

    The datetime is aware, or naive without USE_TZ. Raise InvalidOption for any other value.
    """
    if value is None:
        return None
    if isinstance(value, datetime):
        if abs(value.year - timezone.now().year) > 100:
            raise InvalidOption(f"{name}={brief(value)} is not within a hundred years.")
        try:
            return _in_zone(value)
        except Exception as error:  # A project's own zone may raise anything.
            raise InvalidOption(
                f"{name}={brief(value)} can't be converted to another time zone, because its own "
                f"raises {type(error).__name__}."
            ) from error
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidOption(f"{name} takes seconds, a timedelta or a datetime, not {brief(value)}.")
    if not abs(value) <= MAX_DURATION_SECONDS:
        raise InvalidOption(f"{name}={brief(value)} is not within a hundred years.")
    return float(value)


def _in_zone(value: datetime) -> datetime:
    """Return the datetime aware, or naive without USE_TZ."""
    if settings.USE_TZ and timezone.is_naive(value):
        return timezone.make_aware(value)
    if not settings.USE_TZ and timezone.is_aware(value):
        return timezone.make_naive(value)
    return value


def check_queue(value: Any, name: str = "queue") -> str | None:
    if value is None:
        return None
    queue = _text(value, name)
    if queue is None or not _QUEUE.fullmatch(queue):
        raise InvalidOption(
            f"{name}={brief(value)} is not a valid queue name. Use 1 to 100 letters (A-Z, a-z), "
            "digits, underscores, dots or hyphens."
        )
    return queue


def check_queues(values: Any) -> list[str] | None:
    """Return the names of queues as a list, or None for all queues. One name may be given alone."""
    if values is None:
        return None
    alone = as_text(values)
    try:
        names = list(values) if alone is None else [alone]
    except TypeError:
        raise InvalidOption(
            f"queues={brief(values)} is neither the name of a queue nor a list of names."
        ) from None
    # check_queue() accepts None, for the default.
    return [check_queue("" if name is None else name) or "" for name in names]


def check_choice(value: Any, name: str, choices: Sequence[str]) -> str | None:
    """Return the text, or None if none is given. Raise InvalidOption for any other text."""
    if value is None:
        return None
    choice = _text(value, name)
    if choice not in choices:
        named = ", ".join(map(repr, choices))
        raise InvalidOption(f"{name}={brief(value)} is unknown. There are: {named}.")
    return choice


def _text(value: Any, name: str) -> str | None:
    """Return the value as plain text, or None if it is no text."""
    try:
        return as_text(value)
    except Exception as error:  # A lazy text calls a function of the project.
        _refuse_text(name, error)


def _refuse_text(name: str, error: Exception) -> NoReturn:
    raise InvalidOption(
        f"{name} can't be turned into text, because str() raises {type(error).__name__}."
    ) from error


def _priority(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**31:
        raise InvalidOption(
            "priority takes a whole number of less than 2,147,483,648, higher first, not "
            f"{brief(value)}."
        )
    return int(value)


def _verbose_name(value: Any) -> str:
    if value is None:
        return ""
    name = _text(value, "verbose_name")
    if name is None:
        try:
            name = str.__str__(str(value))
        except Exception as error:  # Such as a number with thousands of digits.
            _refuse_text("verbose_name", error)
    return cut_end(replace_unstorable(name), 255)


def _max_attempts(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise InvalidOption(
            "max_attempts takes the number of executions, from 1 to 2,147,483,647, not "
            f"{brief(value)}."
        )
    return int(value)


def _duration(value: Any, name: str) -> float | None:
    """Return seconds above zero. Raise InvalidOption, with the option's name, for another value."""
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidOption(f"{name} takes seconds or a timedelta, not {brief(value)}.")
    if not 0 < seconds <= MAX_DURATION_SECONDS:
        raise InvalidOption(f"{name}={brief(value)} is not above zero, or too long.")
    return float(seconds)


def _unique(value: Any) -> bool | str | Collection[str] | None:
    if value is None or value is False:
        return None
    if value is True:
        return True
    key = _text(value, "unique")
    unique = as_names(value) if key is None else key
    if not unique:
        raise InvalidOption(
            f"unique={brief(value)} is neither True, a list of parameters, nor a key such as "
            "'reindex:{product_id}'."
        )
    return unique


def _backoff(value: Any) -> Backoff | None:
    if value is None or callable(value):
        return value  # type: ignore[no-any-return]
    try:
        if isinstance(value, bool | str):
            raise TypeError
        return as_seconds(value)
    except Exception:  # A project's own number may raise anything in float().
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
    "max_run_time": partial(_duration, name="max_run_time"),
    "backoff": _backoff,
    "unique": _unique,
    "unique_while": partial(check_choice, name="unique_while", choices=HELD_WHILE),
    "unique_for": partial(_duration, name="unique_for"),
    "on_conflict": partial(check_choice, name="on_conflict", choices=ON_CONFLICT),
    "latest": partial(_duration, name="latest"),
}
