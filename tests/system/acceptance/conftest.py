from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bgtask.models import Task, Worker
from bgtask.status import Status
from tests.conftest import Start
from tests.execution_log import ExecutionLog
from tests.helpers import eventually, mark_as_slow
from tests.processes import ROOT, Child

# Long enough for heartbeats of a busy machine, short enough to wait until a lease has ended.
SHORT_LEASE = {"LEASE": 3, "HEARTBEAT_INTERVAL": 0.5}

StartWorker = Callable[..., Child]


@pytest.hookimpl(tryfirst=True)  # Before -m is applied.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_as_slow(Path(__file__).parent, items)


@pytest.fixture
def worker(process_tasks: Start) -> StartWorker:
    """Return a function: ``worker("--threads=2", GRACE_PERIOD=1)`` starts one, with SHORT_LEASE."""

    def start(*args: str, env: dict[str, str] | None = None, **settings: object) -> Child:
        bgtask = json.dumps({**SHORT_LEASE, **settings})
        return process_tasks(*args, env={"BGTASK_TEST_SETTINGS": bgtask, **(env or {})})

    return start


class Gate:
    """A file for which ``tests.tasks.wait_for(gate.path)`` waits."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def open(self) -> None:
        Path(self.path).touch()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()  # No task may keep waiting, even if the test has failed.


@pytest.fixture
def newcomer(tmp_path: Path) -> Newcomer:
    """Return an app that only some of the processes know."""
    return Newcomer(tmp_path / "apps")


class Newcomer:
    """An app with one background function, ``greet``, which returns a text of the test."""

    task_name = "newcomer.tasks.greet"

    def __init__(self, path: Path) -> None:
        self._tasks = path / "newcomer" / "tasks.py"
        self._tasks.parent.mkdir(parents=True)
        (path / "newcomer" / "__init__.py").touch()
        self.env = {
            "BGTASK_TEST_APPS": "newcomer",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(path)]),
            "PYTHONDONTWRITEBYTECODE": "1",  # Else Python may miss a changed module.
        }
        self.greets_with("hello")

    def greets_with(self, greeting: str) -> None:
        self.has(
            f"from bgtask import background\n\n@background\ndef greet():\n    return {greeting!r}\n"
        )

    def has(self, code: str) -> None:
        self._tasks.write_text(code)


@pytest.fixture
def until_running(execution_log: ExecutionLog) -> Callable[..., None]:
    """Return a function that waits until the function of the task has been called."""

    def wait(task: Task, child: Child, times: int = 1) -> None:
        __tracebackhide__ = True
        eventually(
            lambda: len(execution_log.executions(task.pk)) >= times,
            timeout=30,
            explain=child.output,
        )

    return wait


@pytest.fixture
def until_ended() -> Callable[..., None]:
    """Return a function that waits until every task has ended."""

    def wait(*children: Child, timeout: float = 60) -> None:
        __tracebackhide__ = True
        eventually(
            lambda: not Task.objects.live().exists(),
            timeout=timeout,
            interval=0.1,
            explain=lambda: (
                list(Task.objects.live().values("id", "task_name", "status", "attempts")[:20]),
                *(child.output() for child in children),
            ),
        )

    return wait


def statuses() -> dict[str, int]:
    """Return how many tasks there are by status, without the statuses that no task has."""
    counts = Task.objects.count_by_status()
    return {str(Status(status)): count for status, count in counts.items() if count}


def until_alive(child: Child) -> Worker:
    """Wait until this process has registered as a worker, and return its row."""
    __tracebackhide__ = True
    workers = Worker.objects.alive().filter(pid=child.pid)
    return eventually(workers.first, timeout=30, explain=child.output)
