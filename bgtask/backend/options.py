"""Define the options of a task: at the task, at its function, or for all tasks of a backend."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bgtask.backend import api
from bgtask.exceptions import InvalidOption
from bgtask.options import check_options
from bgtask.unique import UniqueRule, unique_rule

T = TypeVar("T")

# Unlike a background function, a task of Django's API is not retried unless it says so.
DEFAULTS: Mapping[str, Any] = {"max_attempts": 1, "max_run_time": None, "backoff": None}
BACKEND_OPTIONS = DEFAULTS.keys() | {"modules"}
_ATTRIBUTE = "_bgtask_options"


def task_options(
    *,
    max_attempts: Any = None,
    max_run_time: Any = None,
    backoff: Any = None,
    unique: Any = None,
    unique_while: Any = None,
    unique_for: Any = None,
    on_conflict: Any = None,
    latest: Any = None,
) -> Callable[[T], T]:
    """
    Give a task options that Django's ``@task`` does not take. Write it above ``@task``.

    The options are those of ``@background``. Other backends ignore them. Raise InvalidOption if
    one is wrong.
    """
    given = {
        "max_attempts": max_attempts,
        "max_run_time": max_run_time,
        "backoff": backoff,
        "unique": unique,
        "unique_while": unique_while,
        "unique_for": unique_for,
        "on_conflict": on_conflict,
        "latest": latest,
    }
    checked = {
        name: value for name, value in check_options(given).items() if given[name] is not None
    }

    def decorate(task: Any) -> Any:
        is_task = api.is_task(task)
        function = getattr(task, "func", task) if is_task else task
        if not inspect.isfunction(function):
            raise InvalidOption(
                f"@task_options is for tasks of Django's @task, not for {task!r}. Write it above "
                "@task. Give the options of a background function to @background."
            )
        if is_task:  # Otherwise, @task checks them. Only then is known whether it takes a context.
            unique_rule(task.module_path, signature_for_callers(task), checked)
        setattr(function, _ATTRIBUTE, checked)
        return task

    return decorate


def check_backend_options(options: Any) -> dict[str, Any]:
    """
    Return the OPTIONS of a backend with plain values and without gaps.

    Raise InvalidOption if one is unknown or wrong.
    """
    if not isinstance(options, Mapping):
        raise InvalidOption(f"OPTIONS is {options!r}. It must be a dictionary.")
    if "database" in options:
        raise InvalidOption(
            "OPTIONS['database'] does not exist: the database router decides where tasks are "
            "stored. Remove it, and let db_for_write() of a router return the database."
        )
    if unknown := [name for name in options if name not in BACKEND_OPTIONS]:
        raise InvalidOption(
            f"OPTIONS[{unknown[0]!r}] is unknown. There are: {', '.join(sorted(BACKEND_OPTIONS))}."
        )
    modules = options.get("modules", ())
    is_list = isinstance(modules, list | tuple | set | frozenset)
    if not is_list or not all(isinstance(name, str) for name in modules):
        raise InvalidOption(f"OPTIONS['modules'] is {modules!r}. It must be a list of modules.")
    given = {name: options[name] for name in DEFAULTS if options.get(name) is not None}
    return {**DEFAULTS, **check_options(given), "modules": frozenset(modules)}


def option_of(task: Any, name: str, backend_options: Mapping[str, Any]) -> Any:
    """Return an option: the task's own, else that of ``task_options``, else the backend's."""
    own = getattr(task, name, None)
    if own is not None:
        return own
    of_function = getattr(task.func, _ATTRIBUTE, None)
    if of_function is not None and name in of_function:
        return of_function[name]
    return backend_options[name]


def signature_for_callers(task: Any) -> inspect.Signature:
    """Return the signature without the context, which the worker passes and the caller doesn't."""
    signature = inspect.signature(task.func)
    if task.takes_context:
        _context, *others = signature.parameters.values()
        signature = signature.replace(parameters=others)
    return signature


def unique_rule_of(task: Any) -> UniqueRule | None:
    """Return the rule that ``task_options`` gave. Raise InvalidOption if it doesn't fit."""
    options = getattr(task.func, _ATTRIBUTE, {})
    return unique_rule(task.module_path, signature_for_callers(task), options)


def own_options(task: Any) -> dict[str, Any]:
    """Return the options that the task itself has, if it is a ``BgtaskTask``."""
    return {name: value for name in DEFAULTS if (value := getattr(task, name, None)) is not None}
