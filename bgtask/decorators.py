"""
Define @background, which stores the calls of a function as tasks that a worker runs.

The module is long because it gives each mistake in a decorator or a call an error of its own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, overload

from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation

from bgtask import registry
from bgtask.calling import call
from bgtask.exceptions import InvalidFunction, InvalidOption, InvalidParameters
from bgtask.loggers import get_logger
from bgtask.options import (
    LEGACY_OPTIONS,
    CallOptions,
    TaskOptions,
    UsingOptions,
    check_options,
    drop_legacy,
)
from bgtask.placement import check_placement
from bgtask.retries import Backoff
from bgtask.serialization import dump_params, dump_value
from bgtask.unique import unique_rule, without_unique
from bgtask.values import as_text, brief, is_encodable

if TYPE_CHECKING:
    from bgtask.models import Task

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

logger = get_logger(__name__)

CALL_OPTIONS = frozenset(CallOptions.__annotations__)


def declare_cron(function: BackgroundFunction[Any, Any], cron: Any) -> None:
    """Declare a schedule for the function. ``bgtask.schedules`` replaces this function."""
    raise NotImplementedError


class BackgroundFunction(Generic[P, R]):
    """
    A function whose calls are stored as tasks, which a worker runs.

    Calling it stores a task and returns the task. The call also accepts the options ``schedule``
    or ``run_after``, ``queue`` or ``queue_name``, ``priority`` and ``verbose_name``. If the
    function has a parameter with the name of an option, use ``using()`` to give that option.
    """

    def __init__(self, function: Callable[P, R], name: str, options: dict[str, Any]) -> None:
        # This copies the attributes of the function, so those of this class must follow.
        functools.update_wrapper(self, function)
        self.function = function
        self.name = name
        self.options = options
        self._signature = inspect.signature(function)
        self.parameters: Mapping[str, inspect.Parameter] = self._signature.parameters
        self._arity = simple_arity(self._signature)
        self._unique = unique_rule(name, self._signature, options)
        self._call_options = CALL_OPTIONS - self.parameters.keys()
        self._legacy_options = LEGACY_OPTIONS.keys() - self.parameters.keys()

    def __repr__(self) -> str:
        return f"<BackgroundFunction {self.name}>"

    @property
    def place(self) -> str:
        """Return where the function is defined, as ``file:line``."""
        code = inspect.unwrap(self.function).__code__
        return f"{code.co_filename}:{code.co_firstlineno}"

    @property
    def backoff(self) -> Backoff | None:
        return self.options.get("backoff")

    def store(self, args: Sequence[Any], kwargs: Mapping[str, Any], **options: Any) -> Task:
        """Store a task for a slot of a schedule, and return it."""
        from bgtask.models import Task

        stored = {**self._stored_options, **options}
        if self._unique is not None and not self._fits(args, kwargs):
            del stored["unique"]  # The task will fail when it is run, with a clear error.
        return Task.objects.enqueue(self.name, args, dict(kwargs), **stored)

    def _fits(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        try:
            self.bind(args, kwargs)
        except TypeError:
            return False
        return True

    def backoff_of(self, task: Task) -> Backoff | None:
        return self.backoff

    def __call__(self, /, *args: Any, **kwargs: Any) -> Task:
        """
        Store a task that calls the function with these parameters, and return the task.

        Raise TypeError if the parameters don't fit the function's signature. Raise
        InvalidParameters (a TypeError) if they can't be stored as JSON. Raise InvalidOption (a
        ValueError) if an option is wrong.
        """
        drop_legacy(kwargs, self._legacy_options)
        given = self._call_options & kwargs.keys()
        if not given:
            return self.enqueue(*args, **kwargs)
        options = {name: kwargs.pop(name) for name in given}
        return self.using(**options).enqueue(*args, **kwargs)

    def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> Task:
        """
        Store a task and return it.

        Every argument is a parameter of the function, even one with the name of an option.
        """
        # Import here, because `import bgtask` must work before Django has loaded its models.
        from bgtask.models import Task

        self.bind(args, kwargs)
        try:
            return Task.objects.enqueue(self.name, args, kwargs, **self._stored_options)
        except SynchronousOnlyOperation as error:
            name = self.function.__name__
            raise _in_a_coroutine(
                f"await {name}.aenqueue(…), or with options await {name}.using(…).aenqueue(…)"
            ) from error

    async def aenqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> Task:
        """Store a task and return it, like ``enqueue()``, in async code."""
        # Bind the parameters first, because sync_to_async() has parameters of its own.
        return await sync_to_async(functools.partial(self.enqueue, *args, **kwargs))()

    def enqueue_many(self, params: Iterable[Sequence[Any] | Mapping[str, Any]]) -> int:
        """
        Store a task for each item, all or none, and return the number of tasks.

        An item is a tuple of positional parameters or a dictionary of keyword parameters. If one
        is wrong, raise TypeError or InvalidParameters with the number of the item.
        """
        from bgtask.models import Task

        try:
            return Task.objects.enqueue_many(
                self.name, self._each_bound(params), **self._stored_options
            )
        except SynchronousOnlyOperation as error:
            name = self.function.__name__
            raise _in_a_coroutine(f"await sync_to_async({name}.enqueue_many)(…)") from error

    @overload
    def now(
        self: BackgroundFunction[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    @overload
    def now(self, /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    def now(self, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the function here and now, and return its value. Nothing is stored."""
        return call(self.function, args, kwargs)

    def using(self, /, **options: Unpack[UsingOptions]) -> BackgroundFunction[P, R]:
        """
        Return a copy with other options: ``notify_user.using(queue="mail", priority=5)(user.id)``.

        ``unique=None`` drops the options of unique tasks. Raise InvalidOption if one is wrong.
        """
        given: dict[str, Any] = dict(options)
        drop_legacy(given)
        if "backoff" in given:
            raise InvalidOption("backoff= is not kept with a task: give it to @background.")
        checked = check_options(given)
        own = self.options
        if "unique" in checked and not checked["unique"]:
            own = without_unique(own)
        return BackgroundFunction(self.function, self.name, {**own, **checked})

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError if the function can't be called with these parameters."""
        fewest, most = self._arity
        if not kwargs and fewest <= len(args) <= most:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}{_spell(self._signature)}: {error}") from None

    def dump_params(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        return dump_params(args, kwargs)

    def run(self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the function for a task, in a worker, and return its value."""
        return call(self.function, args, kwargs)

    def dump_value(self, task: Task, value: Any) -> str | None:
        """
        Return the value as JSON, or None if it can't be stored as JSON.

        Such a value doesn't fail the task. The work is done, and repeating it would be worse than
        losing a value that nobody asked for.
        """
        try:
            return dump_value(value)
        except InvalidParameters as error:
            logger.warning("%s succeeded, but its return value is not kept. %s", task, error)
            return None

    @functools.cached_property
    def _stored_options(self) -> dict[str, Any]:
        options = without_unique(self.options)
        options.pop("backoff", None)
        return options if self._unique is None else {**options, "unique": self._unique}

    def _each_bound(
        self, params: Iterable[Sequence[Any] | Mapping[str, Any]]
    ) -> Iterator[tuple[Sequence[Any], dict[str, Any]]]:
        fewest, most = self._arity
        for number, item in enumerate(params):
            if isinstance(item, tuple | list):
                if not fewest <= len(item) <= most:
                    self._bind_item(number, item, {})
                yield item, {}
            elif isinstance(item, dict):
                self._bind_item(number, (), item)
                yield (), item
            else:
                raise InvalidParameters(
                    f"Item {number} is {brief(item)}: enqueue_many takes a tuple of positional "
                    "parameters, or a dictionary of keyword parameters, for each task."
                )

    def _bind_item(self, number: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        try:
            self.bind(args, kwargs)
        except TypeError as error:
            raise TypeError(f"Item {number}: {error}") from error


@overload
def background(function: Callable[P, R], /) -> BackgroundFunction[P, R]: ...
@overload
def background(
    name: str | None = None, *, cron: str | None = None, **options: Unpack[TaskOptions]
) -> Callable[[Callable[P, R]], BackgroundFunction[P, R]]: ...


def background(name: Any = None, *, cron: Any = None, **options: Any) -> Any:
    """
    Turn a function into a background function, whose calls are stored as tasks.

    Write ``@background``, or ``@background(schedule=60)`` to give options.

    Options:
        name          key of the function's tasks; its dotted path by default
        schedule      when to run: seconds from the call, a timedelta or a datetime
        run_after     another name for schedule
        queue         name of the queue, from A-Z a-z 0-9 _ . -; "default" by default
        queue_name    another name for queue
        priority      whole number; a task with a higher number runs first
        max_attempts  number of executions before the task fails; MAX_ATTEMPTS by default
        max_run_time  seconds or a timedelta after which an attempt has timed out and the task
                      is tried again; MAX_RUN_TIME by default
        backoff       wait before the next attempt: seconds, a timedelta, or a function of the
                      number of attempts that returns either; attempts ** 4 + 5 by default
        verbose_name  name that people see instead of ``name``
        unique        which calls are the same: True (the same parameters), a list of parameters,
                      or a key such as "reindex:{product_id}"; a call is not stored while a task
                      of the same call is there
        unique_while  "running" (until that task is finished; the default) or "waiting" (until a
                      worker takes it)
        unique_for    seconds or a timedelta from the enqueue, in which the same call is not stored
                      again, even if the task is finished
        on_conflict   what a call does if the same is there: "skip" (return that task; the
                      default), "replace" (give it the new parameters, time and priority while it
                      waits) or "raise" (AlreadyThere)
        cron          declares a schedule for calls without parameters, as ``@recurring`` does
        latest        seconds or a timedelta from the first enqueue, beyond which "replace" puts
                      the task off no further

    Raise InvalidFunction (a TypeError) if another process could not call the function by name.
    Raise InvalidOption (a ValueError) if an option is wrong.
    """
    if callable(name):
        return background()(name)
    if name is not None:
        name = _checked_name(name)
    drop_legacy(options)
    checked = check_options(options)

    def decorate(function: Callable[P, R]) -> BackgroundFunction[P, R]:
        _check_function(function, name)
        own_name = name or _checked_name(f"{function.__module__}.{function.__qualname__}")
        decorated = BackgroundFunction(function, own_name, checked)
        registry.register(decorated)
        if cron is not None:
            declare_cron(decorated, cron)
        return decorated

    return decorate


def _in_a_coroutine(instead: str) -> SynchronousOnlyOperation:
    return SynchronousOnlyOperation(
        f"You can't enqueue a task synchronously in an async context. Use {instead} instead."
    )


def _spell(signature: inspect.Signature) -> str:
    try:
        return str(signature)
    except Exception:  # It contains the repr of each default.
        return f"({', '.join(signature.parameters)})"


def _checked_name(name: Any) -> str:
    """Return the name as a plain string; raise InvalidOption if it can't be one."""
    if isinstance(name, int | float | timedelta | datetime) and not isinstance(name, bool):
        raise InvalidOption(
            f"name must be a string, not {brief(name)}. To say when the task runs, use "
            f"@background(schedule={brief(name)})."
        )
    # A lazy text would be another name in another language.
    text = as_text(name) if isinstance(name, str) else None
    # Some databases ignore trailing blanks when they compare texts.
    if text is None or text != text.strip() or not 1 <= len(text) <= 255:
        raise InvalidOption(
            "name must be a string of 1 to 255 characters without surrounding whitespace, not "
            f"{brief(name)}."
        )
    if "\x00" in text or not is_encodable(text):
        raise InvalidOption(f"name={brief(text)} has characters that databases can't store.")
    return text


def _check_function(function: Any, name: str | None) -> None:
    """
    Raise InvalidFunction if a worker could not call the function by its name.

    The worker is another process, which imports the module itself.
    """
    if isinstance(function, staticmethod | classmethod):
        raise InvalidFunction(
            f"{function.__func__.__qualname__} is wrapped in {type(function).__name__} below "
            "@background. Make it a function of the module."
        )
    if isinstance(function, BackgroundFunction):
        raise InvalidFunction(f"{function.name} is a background function already.")
    if not inspect.isfunction(inspect.unwrap(function)) or inspect.ismethod(function):
        raise InvalidFunction(
            f"{brief(function)} is not a plain function. A worker calls background functions by "
            "name: write a function of the module that calls it."
        )
    code = inspect.unwrap(function).__code__
    where = f"{function.__qualname__} ({code.co_filename}:{code.co_firstlineno})"
    if function.__name__ == "<lambda>":
        raise InvalidFunction(f"{where} is a lambda, and has no name to be called by. Use def.")
    if "<locals>" in function.__qualname__ and name is None:
        raise InvalidFunction(
            f"{where} is defined inside another function, so a worker that imports the module "
            "will not find it. Move it to the top of the module, or give it a name= and make "
            "sure that it is defined in every worker."
        )
    if name is None:
        check_placement(function.__module__, code.co_filename, where)
    first = next(iter(inspect.signature(function).parameters), None)
    if first in {"self", "cls"}:
        raise InvalidFunction(
            f"{where} is a method, and its {first} cannot be kept as JSON. Write a function of "
            "the module that takes the primary key."
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidFunction(f"{where} is a generator: calling it would run nothing.")


def simple_arity(signature: inspect.Signature) -> tuple[int, float]:
    """
    Return the least and the greatest number of positional arguments that surely fit.

    Return (1, 0), which no number fits, if only ``bind()`` can decide.
    """
    fewest, most = 0, 0.0
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            most = float("inf")
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            fewest += parameter.default is parameter.empty
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            return 1, 0
    return fewest, most
