from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from django.db import connection

from tests import execution_log as log_module
from tests.execution_log import ExecutionLog
from tests.helpers import chromium, is_required
from tests.processes import ROOT, Child

Start = Callable[..., Child]


def pytest_configure() -> None:
    # On SIGTERM, still tear the fixtures down, because they end the processes of the tests.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_report_header() -> str:
    return f"database: {connection.vendor}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("vendor"):
        if connection.vendor not in marker.args:
            pytest.skip(f"only on {' or '.join(marker.args)}")
    if item.get_closest_marker("browser") and chromium() is None:
        missing = pytest.fail if is_required("browser") else pytest.skip
        missing("no browser here: apt-get install chromium")


@pytest.fixture
def database_vendor() -> str:
    """Return Django's name of the database: sqlite, postgresql or mysql (MariaDB too)."""
    return connection.vendor


@pytest.fixture
def execution_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExecutionLog:
    path = tmp_path / "execution_log"
    monkeypatch.setenv(log_module.PATH, str(path))
    return ExecutionLog(path)


@pytest.fixture
def child_env(django_db_setup: None, execution_log: ExecutionLog) -> dict[str, str]:
    """Return the environment in which a child finds the database of the running test."""
    # After the fixture django_db_setup, NAME is the name of the test database.
    return {
        **os.environ,
        "BGTASK_TEST_DATABASE": json.dumps(connection.settings_dict),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def command(transactional_db: None, child_env: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """
    Return a function that starts a management command as a process of its own.

    Processes that still run at the end of the test are killed.

    ``command("process_tasks", "--duration=5", env={"NAME": "value"})``
    """
    children: list[Child] = []

    def start(
        name: str, *args: str, env: dict[str, str] | None = None, within: Sequence[str] = ()
    ) -> Child:
        log = tmp_path / f"{name}-{len(children)}.log"
        children.append(
            Child(name, *args, env={**child_env, **(env or {})}, log=log, within=within)
        )
        return children[-1]

    yield start
    for child in children:
        child.kill()
    for child in children:
        print(child, child.output(), sep="\n")  # noqa: T201  # pytest shows it on failure.


@pytest.fixture
def process_tasks(command: Start) -> Start:
    """Return a function: ``process_tasks("--threads=2")`` starts a worker process."""
    return partial(command, "process_tasks")
