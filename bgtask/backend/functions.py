"""Wrap a task of Django's API, so that bgtask can store and run it like a background function."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from bgtask.backend import aliases, announcements, api, values
from bgtask.backend.options import option_of, signature_for_callers
from bgtask.calling import call
from bgtask.decorators import simple_arity
from bgtask.exceptions import UnknownTask


class TaskFunction:
    """A task of Django's API. See ``bgtask.registry.RegisteredFunction``."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self.name: str = task.module_path
        self._signature = signature_for_callers(task)
        self._arity = simple_arity(self._signature)

    def __repr__(self) -> str:
        return f"<TaskFunction {self.name}>"

    @property
    def place(self) -> str:
        code = inspect.unwrap(self.task.func).__code__
        return f"{code.co_filename}:{code.co_firstlineno}"

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        return self._signature.parameters

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        fewest, most = self._arity
        if not kwargs and fewest <= len(args) <= most:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}{self._signature}: {error}") from None

    def dump_params(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        return values.dump_params(*values.normalized(args, kwargs))

    def store(self, args: Sequence[Any], kwargs: Mapping[str, Any], **options: Any) -> Any:
        backend = aliases.backend_of(self.task.backend)
        if backend is None:
            raise UnknownTask(self.name)
        return backend.store_for_schedule(self.task, args, kwargs, options)

    def backoff_of(self, task: Any) -> Any:
        backend = aliases.backend_of(task.backend)
        defaults = {"backoff": None} if backend is None else backend.checked_options
        return option_of(self.task, "backoff", defaults)

    def run(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        result = announcements.started(task, self.task, (args, kwargs))
        if self.task.takes_context:
            args = (api.TaskContext(task_result=result), *args)
        return call(self.task.func, args, kwargs)

    def dump_value(self, task: Any, value: Any) -> str | None:
        """Return the value as JSON, or raise TypeError, as Django's API promises."""
        return values.dump_value(value)


def wrap(task: Any) -> TaskFunction | None:
    """Return the registered form of a task of Django's API, or None for anything else."""
    return TaskFunction(task) if api.is_task(task) else None
