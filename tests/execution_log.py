"""
Log which function really ran, and when. The functions write the log, not the queue.

A background function writes a line when it starts and one when it ends. All processes append
to the same file. The tests read the file when all tasks have ended:

    with execution_log.execution(task_id, token, attempt):
        ...

The queue's own tables can't prove that the queue works.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

PATH = "BGTASK_TEST_EXECUTION_LOG"


@dataclass(frozen=True, kw_only=True)
class Line:
    event: Literal["start", "end"]
    task: int
    token: int
    attempt: int
    pid: int
    thread: int
    monotonic: float  # Comparable: all processes of a machine share one clock.
    wall: float


@contextmanager
def execution(task: int, token: int = 0, attempt: int = 0) -> Iterator[None]:
    """Log that a function started and that it ended, by a return or an error."""
    _note("start", task, token, attempt)
    try:
        yield
    finally:
        _note("end", task, token, attempt)


def _note(event: Literal["start", "end"], task: int, token: int, attempt: int) -> None:
    line = Line(
        event=event,
        task=task,
        token=token,
        attempt=attempt,
        pid=os.getpid(),
        thread=threading.get_native_id(),
        monotonic=time.monotonic(),
        wall=time.time(),
    )
    # Write each line by one call in append mode. So the lines of two processes can't mix, and a
    # written line is kept even if its process is killed by SIGKILL.
    file = os.open(os.environ[PATH], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, json.dumps(asdict(line)).encode() + b"\n")
    finally:
        os.close(file)


@dataclass(frozen=True, kw_only=True)
class Execution:
    start: Line
    end: Line | None  # None if still running, or killed.

    @property
    def task(self) -> int:
        return self.start.task

    def overlaps(self, other: Execution) -> bool:
        first, second = sorted((self, other), key=lambda one: one.start.monotonic)
        return first.end is not None and second.start.monotonic < first.end.monotonic


class ExecutionLog:
    """The lines that have been logged so far."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[Line]:
        if not self.path.exists():
            return []
        return [Line(**json.loads(line)) for line in self.path.read_text().splitlines()]

    def executions(self, task: int | None = None) -> list[Execution]:
        """Return the executions of one task, or of all, in the order in which they started."""
        lines = self.lines()
        ends = {_key(line): line for line in lines if line.event == "end"}
        return [
            Execution(start=line, end=ends.get(_key(line)))
            for line in lines
            if line.event == "start" and task in (None, line.task)
        ]

    def overlapping(self) -> list[tuple[Execution, Execution]]:
        """Return the pairs of executions that ran the same task at the same time."""
        by_task: dict[int, list[Execution]] = {}
        for one in self.executions():
            by_task.setdefault(one.task, []).append(one)
        return [
            (one, other)
            for executions in by_task.values()
            for one, other in combinations(executions, 2)
            if one.overlaps(other)
        ]


def _key(line: Line) -> tuple[int, int, int, int, int]:
    return (line.task, line.token, line.attempt, line.pid, line.thread)
