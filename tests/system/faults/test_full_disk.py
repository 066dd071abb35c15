"""A disk that is really full: each outcome waits for room, and is then written as it was."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection

from bgtask.models import Attempt, Task
from tests.databases import ServerMissing
from tests.helpers import eventually
from tests.system.faults import tasks
from tests.system.faults.conftest import connected_to
from tests.system.faults.servers import server
from tests.system.faults.testbed import Testbed

SIZES = {"sqlite": "8m", "postgresql": "160m"}
LENGTH = 20_000  # Characters of each return value: together they are more than what is left.

pytestmark = pytest.mark.vendor(*SIZES)


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """Mount a small file system, and make the databases of the test in it."""
    # In a short path: the socket of a server is in there.
    path = Path(tempfile.mkdtemp(prefix="bgtask-disk-"))
    size = f"size={SIZES[connection.vendor]},mode=1777"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", path], check=False, capture_output=True
    )
    if mounted.returncode:
        path.rmdir()
        pytest.skip("Only root may mount a small file system.")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(path))
            yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
        path.rmdir()


@pytest.fixture
def testbed(disk, django_db_blocker, tmp_path, monkeypatch):
    monkeypatch.setenv("BGTASK_TEST_EXECUTION_LOG", "")
    with contextlib.ExitStack() as stack:
        try:
            mine = stack.enter_context(server(connection.vendor, durable=True))
        except ServerMissing as error:
            pytest.skip(str(error))
        stack.enter_context(django_db_blocker.unblock())
        stack.enter_context(connected_to(mine))
        call_command("migrate", verbosity=0)
        testbed = Testbed(mine, tmp_path)
        yield testbed
        testbed.close()
        print(testbed.output())  # noqa: T201  # pytest shows it on failure.


@contextlib.contextmanager
def full(disk):
    """In here, hardly anything of the disk is left."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        ballast.unlink()


def test_full_disk_loses_no_return_value_and_no_traceback(disk, testbed, settled, tmp_path):
    """Kind: outcomes that the completer drops, or strips of their texts, in an outage."""
    gate = tmp_path / "gate"
    succeeding = [tasks.write_long(str(gate), LENGTH).pk for _ in range(30)]
    failing = [tasks.write_long(str(gate), LENGTH, fail=True).pk for _ in range(30)]
    worker = testbed.worker("--threads=60", LEASE=300, HEARTBEAT_INTERVAL=1)
    eventually(
        lambda: len(testbed.execution_log.executions()) == 60, timeout=60, explain=worker.output
    )

    with full(disk):
        gate.touch()
        eventually(lambda: "are kept" in worker.output(), timeout=60, explain=worker.output)
        connection.close()
    audit = settled({*succeeding, *failing}, timeout=120)

    assert audit.executions == {1: 60}
    values = Task.objects.succeeded().values_list("return_value", flat=True)
    assert [len(json.loads(value)) for value in values] == [LENGTH] * 30
    errors = Task.objects.failed().values_list("error_class", "last_error")
    assert {name for name, _ in errors} == {"RuntimeError"}
    assert all("in write_long" in text for _, text in errors)
    assert Attempt.objects.count() == 30
