"""
Who really ran what, and when: told by the functions themselves, past the queue.

A background function writes a line when it starts and one when it ends, to a file that
all processes append to; the tests read it when all is over:

    with execution_log.execution(task_id, token, attempt):
        ...

The queue's own tables cannot be the witness of whether the queue works.
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

PATH = "BGTASK_TEST_LEDGER"


@dataclass(frozen=True, kw_only=True)
class Line:
    event: Literal["start", "end"]
    task: int
    token: int
    attempt: int
    pid: int
    thread: int
    monotonic: float  # One clock for all processes of a machine: comparable.
    wall: float


@contextmanager
def execution(task: int, token: int = 0, attempt: int = 0) -> Iterator[None]:
    """Note that a function started and, however it does, that it ended."""
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
    # One write of one line in append mode: processes cannot tear each other's lines, and
    # what is written outlives a SIGKILL of the writer.
    file = os.open(os.environ[PATH], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, json.dumps(asdict(line)).encode() + b"\n")
    finally:
        os.close(file)


@dataclass(frozen=True, kw_only=True)
class Execution:
    start: Line
    end: Line | None  # None: still running, or killed.

    @property
    def task(self) -> int:
        return self.start.task

    def overlaps(self, other: Execution) -> bool:
        first, second = sorted((self, other), key=lambda one: one.start.monotonic)
        return first.end is not None and second.start.monotonic < first.end.monotonic


class ExecutionLog:
    """What has been noted so far."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[Line]:
        if not self.path.exists():
            return []
        return [Line(**json.loads(line)) for line in self.path.read_text().splitlines()]

    def executions(self, task: int | None = None) -> list[Execution]:
        """Those of one task, or of all, in the order they started."""
        lines = self.lines()
        ends = {_key(line): line for line in lines if line.event == "end"}
        return [
            Execution(start=line, end=ends.get(_key(line)))
            for line in lines
            if line.event == "start" and task in (None, line.task)
        ]

    def overlapping(self) -> list[tuple[Execution, Execution]]:
        """Pairs that ran the same task at the same time."""
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
