"""Fixtures for a database of this suite, which each test may stop and kill."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, connections

from bgtask.models import Attempt, QueuePause, Task, TaskHold, Worker
from tests import execution_log as log_module
from tests.databases import ServerMissing
from tests.helpers import eventually, mark_as_slow
from tests.system.faults.audit import Audit, audit
from tests.system.faults.servers import Server, server
from tests.system.faults.testbed import Testbed, proxied


@pytest.hookimpl(tryfirst=True)  # Before -m is applied.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_as_slow(Path(__file__).parent, items)


@pytest.fixture(scope="session")
def own_server(django_db_blocker: Any) -> Iterator[Server]:
    with contextlib.ExitStack() as stack:
        try:
            mine = stack.enter_context(server(connection.vendor, durable=True))
        except ServerMissing as error:
            pytest.skip(str(error))
        with django_db_blocker.unblock(), connected_to(mine):
            call_command("migrate", verbosity=0)
        yield mine


@pytest.fixture
def testbed(
    own_server: Server, django_db_blocker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Testbed]:
    monkeypatch.setenv(log_module.PATH, "")  # Restores what a testbed sets.
    with django_db_blocker.unblock(), connected_to(own_server):
        testbed = Testbed(own_server, tmp_path)
        yield testbed
        testbed.close()
        print(testbed.output())  # noqa: T201  # pytest shows it on failure.
        for model in (Attempt, Task, Worker, TaskHold, QueuePause):
            model.objects.all().delete()


@pytest.fixture
def wired(testbed: Testbed) -> Iterator[Testbed]:
    """Yield a testbed whose workers connect through a proxy. Skip where there is no wire."""
    if not testbed.server.has_server:
        pytest.skip("SQLite has no wire")
    with proxied(testbed.server) as proxy:
        testbed.proxy = proxy
        yield testbed


@pytest.fixture
def served(testbed: Testbed) -> Testbed:
    """Return a testbed with a server that can be stopped. Skip where there is no server."""
    if not testbed.server.has_server:
        pytest.skip("SQLite has no server")
    return testbed


@pytest.fixture
def settled(testbed: Testbed) -> Callable[..., Audit]:
    """Return a function: ``settled(committed)`` waits until all tasks have ended, and audits."""

    def settle(committed: set[int] | None = None, timeout: float = 60) -> Audit:
        __tracebackhide__ = True
        eventually(
            lambda: not Task.objects.live().exists(),
            timeout=timeout,
            interval=0.1,
            explain=lambda: (
                list(Task.objects.live().values("id", "task_name", "status", "crashes")[:10]),
                testbed.output(),
            ),
        )
        known = Task.objects.values_list("pk", flat=True)
        return audit(
            testbed.execution_log, known if committed is None else committed, testbed.deaths
        ).check()

    return settle


class connected_to:  # noqa: N801  # It is used like a function.
    """Let ``default`` be this server within the block."""

    def __init__(self, server: Server) -> None:
        self._settings = {"default": copy.deepcopy(server.settings)}

    def __enter__(self) -> None:
        self._before = connections["default"], connections.settings["default"]
        ours = connections.configure_settings({"default": self._settings["default"]})["default"]
        connections.settings["default"] = ours
        del connections["default"]

    def __exit__(self, *error: object) -> None:
        connections["default"].close()
        connections["default"], connections.settings["default"] = self._before
