"""Call a function that may be async, and wait for its result."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import CodeType
from typing import Any

from asgiref.sync import async_to_sync
from django.core.exceptions import SynchronousOnlyOperation

from bgtask.exceptions import InvalidFunction


def call(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """
    Call the function and return its result; wait for the result if the function is async.

    The event loop has a thread of its own. The code that a coroutine passes to ``sync_to_async``,
    as Django's async methods do, runs in this thread. It uses this thread's database connections.
    Raise InvalidFunction if the function is a generator function.
    """
    value = function(*args, **kwargs)
    if value is None:
        return None
    if inspect.isawaitable(value):
        return _result(value, function)
    # A decorator can hide a generator function from the checks of @background.
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        _refuse_own_generator(value, function)
    return value


def _result(awaitable: Awaitable[Any], function: Callable[..., Any]) -> Any:
    if _is_in_event_loop():
        if inspect.iscoroutine(awaitable):
            awaitable.close()  # Python would warn that it was never awaited.
        name = getattr(function, "__name__", repr(function))
        raise SynchronousOnlyOperation(
            f"{name} is async, and an event loop runs in this thread. The loop would wait for "
            f"itself. Write await sync_to_async({name}.now)(…), or in a test "
            "await sync_to_async(run_due)()."
        )
    value, error = async_to_sync(_settled)(awaitable)
    try:
        if error is not None:
            raise error
        return value
    finally:
        del error  # Its traceback refers to this frame. Break the cycle, so that both are freed.


async def _settled(awaitable: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """
    Return the result and the error; one of them is None.

    The error is returned, because SystemExit would stop the event loop that runs this coroutine.
    """
    try:
        return await awaitable, None
    except BaseException as error:
        return None, error


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _refuse_own_generator(generator: Any, function: Callable[..., Any]) -> None:
    """
    Raise InvalidFunction if the function itself made this generator.

    In that case none of the function's code has run. A generator that another function made can
    be a return value.
    """
    code: CodeType = generator.gi_code if inspect.isgenerator(generator) else generator.ag_code
    if code is getattr(inspect.unwrap(function), "__code__", None):
        raise InvalidFunction(
            f"{function.__qualname__} ({code.co_filename}:{code.co_firstlineno}) is a generator: "
            "calling it runs nothing. Write a function that does the work and returns."
        )
