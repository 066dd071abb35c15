"""What tests say again and again."""

from __future__ import annotations

import inspect
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")


def eventually(
    condition: Callable[[], T | None],
    *,
    timeout: float = 15,
    interval: float = 0.02,
    explain: Callable[[], object] | None = None,
) -> T:
    """
    Ask until the answer is true, and return it; fail once the time is up.

    `explain` is asked only then, for what a reader of the failure wants to see:
    ``eventually(Task.objects.finished().exists, explain=worker.output)``.
    """
    __tracebackhide__ = True
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > deadline:
            message = f"Not within {timeout:g} s: {_source(condition)} (last: {answer!r})"
            pytest.fail(f"{message}\n{explain()}" if explain else message)
        time.sleep(interval)
    return answer


def _source(condition: Callable[[], object]) -> str:
    name: str = getattr(condition, "__qualname__", repr(condition))
    if "<lambda>" not in name:
        return name
    try:
        return inspect.getsource(condition).strip()
    except OSError:
        return name


def chromium() -> str | None:
    """Where this machine keeps its browser, if it has one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def is_required(what: str) -> bool:
    """Whether `what` may not be skipped where it is missing: so it is in CI."""
    return what in os.environ.get("BGTASK_TEST_REQUIRE", "").split(",")


def mark_as_slow(folder: Path, items: Iterable[pytest.Item]) -> None:
    """Mark each test in this folder as slow, so that ``python -m tests`` runs only a sample."""
    for item in items:
        if folder in item.path.parents:
            item.add_marker("slow")
