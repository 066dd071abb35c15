"""Define @recurring, which declares a schedule in the code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, TypeVar

from bgtask import decorators, registry
from bgtask.decorators import BackgroundFunction
from bgtask.exceptions import InvalidFunction, InvalidOption
from bgtask.values import as_text, brief, is_encodable

if TYPE_CHECKING:
    from bgtask.schedules.definition import Definition

T = TypeVar("T")

MAX_KEY_CHARACTERS = 255


@dataclass(frozen=True)
class Declaration:
    """A schedule that the code of this process declares."""

    key: str
    definition: Definition
    origin: object  # The background function, or the task of Django's API.
    place: str  # Where the function is defined, as file:line.
    has_own_key: bool


_declarations: dict[str, Declaration] = {}


def recurring(
    *,
    cron: str | None = None,
    every: float | timedelta | None = None,
    at: datetime | None = None,
    time_zone: str | tzinfo | None = None,
    key: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    jitter: float | timedelta | None = None,
    misfire: str | None = None,
    grace: float | timedelta | None = None,
    overlap: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
) -> Callable[[T], T]:
    """
    Declare a schedule for a background function, or for a task of Django's API.

    Write it above ``@background`` or ``@task``, once for each schedule::

        @recurring(cron="0 9 * * mon-fri", time_zone="Europe/Berlin")
        @background
        def report(): ...

    Options:
        cron       five fields: minute, hour, day of month, month, day of week; or @hourly, @daily,
                   @weekly, @monthly, @yearly
        every      seconds or a timedelta, counted from ``start`` or from 1970-01-01 UTC
        at         a datetime, for one run
        time_zone  name of the time zone of ``cron``; TIME_ZONE by default
        key        name of the schedule; the name of the task by default, then "#2" and so on
        args       positional parameters of the task
        kwargs     keyword parameters of the task
        start      no slot is before this datetime
        end        no slot is after this datetime
        jitter     seconds by which a task may run later than its slot
        misfire    for slots that nobody decided in time: "one" (run once, for the newest; the
                   default), "none" or "all"
        grace      seconds after which a slot counts as missed for misfire="none"; 60 by default
        overlap    if the last task is still live: "skip" (the default), "allow" or "cancel"
        queue      the task's queue, instead of that of the function
        priority   the task's priority, instead of that of the function

    Raise InvalidOption if an option is wrong, TypeError if the parameters don't fit the function,
    and InvalidFunction if the decorated object is neither a background function nor a task.
    """
    options = {
        "cron": cron, "every": every, "at": at, "time_zone": time_zone, "start": start, "end": end,
        "jitter": jitter, "misfire": misfire, "grace": grace, "overlap": overlap, "queue": queue,
        "priority": priority,
    }  # fmt: skip
    own_key = None if key is None else check_key(key)

    def decorate(task: T) -> T:
        function = _registered(task)
        if function is None:
            raise InvalidFunction(
                f"{brief(task)} is neither a background function nor a task of django.tasks. "
                "Write @recurring above @background or @task."
            )
        _declare(task, function, own_key, args, dict(kwargs or {}), options)
        return task

    return decorate


def check_key(value: Any) -> str:
    """Return the key as a plain string. Raise InvalidOption if it can't be one."""
    key = as_text(value)
    if key is None or key != key.strip() or not 1 <= len(key) <= MAX_KEY_CHARACTERS:
        raise InvalidOption(
            f"key={brief(value)} must be a string of 1 to {MAX_KEY_CHARACTERS} characters without "
            "surrounding whitespace."
        )
    if "\x00" in key or not is_encodable(key):
        raise InvalidOption(f"key={brief(key)} has characters that databases can't store.")
    return key


def declarations() -> Mapping[str, Declaration]:
    """Return the schedules that the code of this process declares, by key."""
    return _declarations


def _registered(task: Any) -> registry.RegisteredFunction | None:
    return task if isinstance(task, BackgroundFunction) else registry.wrapped(task)


def _declare(
    origin: object,
    function: registry.RegisteredFunction,
    own_key: str | None,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    options: dict[str, Any],
) -> None:
    if not isinstance(args, list | tuple):
        raise InvalidOption(f"args={brief(args)} must be a list of positional parameters.")
    function.bind(args, kwargs)
    params = function.dump_params(args, kwargs)
    definition = _definition(function.name, params, options)
    key = own_key or _free_key(function.name, origin)
    known = _declarations.get(key)
    # A module that is imported again replaces its own declarations.
    if known is not None and (known.origin is origin or known.place != function.place):
        raise InvalidOption(
            f"Two schedules have the key {key!r}: at {known.place} and at {function.place}. Give "
            "one of them another key=."
        )
    _declarations[key] = Declaration(key, definition, origin, function.place, own_key is not None)


def _free_key(name: str, origin: object) -> str:
    """Return the name of the task, with a number if schedules of it have such keys already."""
    ours = (one for one in _declarations.values() if one.origin is origin)
    own = [one for one in ours if not one.has_own_key]
    key = name if not own else f"{name}#{len(own) + 1}"
    if len(key) > MAX_KEY_CHARACTERS:
        raise InvalidOption(
            f"The key {brief(key)} is too long. Give the schedule a key= of its own."
        )
    return key


def _declare_from_decorator(function: BackgroundFunction[Any, Any], cron: Any) -> None:
    _declare(function, function, None, (), {}, {"cron": cron})


decorators.declare_cron = _declare_from_decorator


def _definition(name: str, params: str, options: dict[str, Any]) -> Definition:
    # Import here, because `import bgtask` must work before Django has loaded its models.
    from bgtask.schedules.definition import check_definition
    from bgtask.schedules.timetable import check_ever_fires

    definition = check_definition(name, params, **options)
    check_ever_fires(definition.kind, definition.expression)
    return definition
