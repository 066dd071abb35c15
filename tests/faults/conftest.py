"""A database of the suite's own, which may be stopped and killed, for the time of each test."""

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
from tests import ledger as ledger_module
from tests.databases import ServerMissing
from tests.faults.conservation import Audit, audit
from tests.faults.servers import Server, server
from tests.faults.stage import Stage, proxied
from tests.helpers import eventually, mark_as_slow


@pytest.hookimpl(tryfirst=True)  # Before -m is asked.
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
def stage(
    own_server: Server, django_db_blocker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    monkeypatch.setenv(ledger_module.PATH, "")  # Put back at the end, whatever a stage sets.
    with django_db_blocker.unblock(), connected_to(own_server):
        stage = Stage(own_server, tmp_path)
        yield stage
        stage.close()
        print(stage.output())  # noqa: T201  # pytest shows it on failure.
        for model in (Attempt, Task, Worker, TaskHold, QueuePause):
            model.objects.all().delete()


@pytest.fixture
def wired(stage: Stage) -> Iterator[Stage]:
    """A stage whose workers are connected by way of a proxy; only where there is a wire."""
    if not stage.server.has_server:
        pytest.skip("SQLite has no wire")
    with proxied(stage.server) as proxy:
        stage.proxy = proxy
        yield stage


@pytest.fixture
def served(stage: Stage) -> Stage:
    """A stage with a server that can be stopped."""
    if not stage.server.has_server:
        pytest.skip("SQLite has no server")
    return stage


@pytest.fixture
def settled(stage: Stage) -> Callable[..., Audit]:
    """``settled(committed)``: wait until all has come to its end, and see that nothing is amiss."""

    def settle(committed: set[int] | None = None, timeout: float = 60) -> Audit:
        __tracebackhide__ = True
        eventually(
            lambda: not Task.objects.live().exists(),
            timeout=timeout,
            interval=0.1,
            explain=lambda: (
                list(Task.objects.live().values("id", "task_name", "status", "crashes")[:10]),
                stage.output(),
            ),
        )
        known = Task.objects.values_list("pk", flat=True)
        return audit(stage.ledger, known if committed is None else committed, stage.deaths).check()

    return settle


class connected_to:  # noqa: N801  # Reads like a function, as it is used.
    """In here, ``default`` is this server."""

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
