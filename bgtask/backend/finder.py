"""
Find the task of Django's API that a name stands for.

The name of a task is the path of its function. A row of the table may hold any name. So this
module imports only what the project allows, and accepts only a task that has this very path.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

from django.apps import AppConfig, apps

from bgtask import clock, registry
from bgtask.backend import aliases, api
from bgtask.backend.functions import TaskFunction
from bgtask.exceptions import UnknownTask
from bgtask.loggers import get_logger

logger = get_logger(__name__)

RETRY_SECONDS = 60.0  # For so long, the module of a name that was not found is not imported again.
MOST_MISSES = 10_000  # Names that are remembered as not found.
MAX_NAME_LENGTH = 255


def may_import(module: str) -> bool:
    """Return whether a worker may import the module: it is part of an app, or in OPTIONS."""
    if not all(part.isidentifier() for part in module.split(".")):
        return False
    packages = (name for config in apps.get_app_configs() for name in _packages_of(config))
    return any(module == name or module.startswith(f"{name}.") for name in packages) or (
        module in aliases.modules()
    )


def _packages_of(config: AppConfig) -> Iterator[str]:
    """
    Yield the package of an app, and those of the apps that its configuration extends.

    Wagtail's app for searches extends that of a library, whose tasks it enqueues.
    """
    yield config.name
    for base in type(config).__mro__[1:]:
        if base is AppConfig:
            return
        yield base.__module__.rpartition(".")[0]


class _Found(NamedTuple):
    """A function, and where it was found."""

    function: TaskFunction
    module_name: str
    module: ModuleType
    names: dict[str, Any]
    attribute: str

    def is_current(self) -> bool:
        """Return whether the same task is still there. A module may have been loaded again."""
        return (
            sys.modules.get(self.module_name) is self.module
            and self.names.get(self.attribute) is self.function.task
        )


class TaskFinder:
    """Find tasks by name. See ``bgtask.registry.Finder``."""

    def __init__(self) -> None:
        self._found: dict[str, _Found] = {}
        self._defined: set[str] = set()
        self._missed: dict[str, float] = {}  # Until when a name counts as not found.
        self._told: set[str] = set()

    def note(self, name: str) -> None:
        """Remember the name of a task that was defined in this process."""
        self._defined.add(name)

    def names(self) -> Iterator[str]:
        return (name for name in tuple(self._defined) if self.find_loaded(name) is not None)

    def find(self, name: str) -> TaskFunction | None:
        if (function := self.find_loaded(name)) is not None:
            return function
        module = name.rpartition(".")[0]
        if module in sys.modules or self._was_missed(name) or not may_import(module):
            return None
        self._import(module)
        return self.find_loaded(name)

    def find_loaded(self, name: str) -> TaskFunction | None:
        known = self._found.get(name)
        if known is not None and known.is_current():
            return known.function
        module, _, attribute = name.rpartition(".")
        loaded = sys.modules.get(module)
        if not isinstance(loaded, ModuleType):
            return None
        # Read only the dictionary. A module may define __getattr__(), which can do anything.
        names = object.__getattribute__(loaded, "__dict__")
        task = names.get(attribute)
        if not api.is_task(task) or task.module_path != name:
            return None
        self._found[name] = found = _Found(TaskFunction(task), module, loaded, names, attribute)
        return found.function

    def _was_missed(self, name: str) -> bool:
        """Return whether the name was looked for a short time ago. If not, note that it is now."""
        now = clock.monotonic()
        if now < self._missed.get(name, 0.0):
            return True
        if len(self._missed) >= MOST_MISSES:
            self._missed.clear()
        self._missed[name] = now + RETRY_SECONDS
        return False

    def _import(self, module: str) -> None:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):  # It is there, but imports another.
                self._tell(module, error)
        except (Exception, SystemExit) as error:
            self._tell(module, error)

    def _tell(self, module: str, error: BaseException) -> None:
        if module not in self._told:
            self._told.add(module)
            logger.error(
                "The module %s can't be imported, so its tasks are set aside.",
                module,
                exc_info=error,
            )


task_finder = TaskFinder()


def function_for_workers(task: Any) -> TaskFunction:
    """Return how a worker finds this task by its name. Raise InvalidTask if no worker would."""
    name, module = task.module_path, task.func.__module__
    if module in ("__main__", "__mp_main__"):
        raise api.InvalidTask(
            f"{name} is defined in the program that runs here, which a worker can't import. Move "
            "it to the tasks.py of an app, and import it from there."
        )
    if len(name) > MAX_NAME_LENGTH:
        raise api.InvalidTask(
            f"{name[:80]}… has {len(name)} characters, of {MAX_NAME_LENGTH} allowed. Move the task "
            "to a module with a shorter path."
        )
    try:
        function = registry.find_loaded(name)
    except UnknownTask:
        function = None
    if not isinstance(function, TaskFunction) or function.task.func is not task.func:
        raise api.InvalidTask(
            f"A worker would look for a task under the path {name}, and there is "
            f"{_what_is_at(function)}. Decorate the function with @task where it is defined, at "
            "the top of its module, and don't give the task another name."
        )
    if not may_import(module):
        raise api.InvalidTask(
            f"{name} is in the module {module}, which belongs to no app of INSTALLED_APPS, so no "
            f"worker would import it. Add {module!r} to OPTIONS['modules'] in TASKS."
        )
    return function


def _what_is_at(function: Any) -> str:
    return "no task" if function is None else f"another function, {function!r}"
