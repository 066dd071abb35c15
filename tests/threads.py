"""Call functions in threads at once, each on a connection of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import connections

T = TypeVar("T")


def all_at_once(*functions: Callable[[], T], timeout: float = 120) -> Sequence[T]:
    """
    Call each function in a thread, all starting together, and return their results.

    Raise the error of a function here, once all have ended.
    """
    start = threading.Barrier(len(functions))

    def run(function: Callable[[], T]) -> T:
        try:
            start.wait(timeout)
            return function()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(functions)) as threads:
        calls = [threads.submit(run, function) for function in functions]
    return [call.result(timeout) for call in calls]
