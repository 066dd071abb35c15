"""The kind of fault: a server keeps the locks of a worker whose host has vanished."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection, connections

from bgtask.models import Task
from bgtask.worker.poolers import is_direct
from tests.databases import ServerMissing, postgresql
from tests.helpers import eventually, is_required
from tests.processes import Child
from tests.system.faults import tasks
from tests.system.faults.conftest import connected_to
from tests.system.faults.servers import PostgreSQLServer
from tests.system.faults.testbed import APPS

pytestmark = pytest.mark.vendor("postgresql")

SHOW = """
    SELECT string_agg(setting, ' ' ORDER BY name) FROM pg_settings
    WHERE name LIKE 'tcp_keepalives%' OR name = 'tcp_user_timeout'
"""
OURS = "3 15 5 30000"  # Count, idle, interval, user timeout.


class Listening(PostgreSQLServer):
    """A server that is reached by TCP, too: on a socket keepalives are nothing."""

    def listen(self, port: int) -> None:
        self.stop()
        self._command[self._command.index("-h") + 1] = "127.0.0.1"
        self._command += ["-p", str(port)]
        self.start()

    @property
    def user(self) -> int:
        return self._uid


@pytest.fixture(scope="module")
def listening(django_db_blocker) -> Iterator[Listening]:
    patch = pytest.MonkeyPatch()
    with contextlib.ExitStack() as stack:
        try:
            server = Listening(stack.enter_context(postgresql()))
        except ServerMissing as error:
            pytest.skip(str(error))
        port = _free_port()
        patch.setenv("PGPORT", str(port))  # The name of its socket follows from it.
        stack.callback(patch.undo)
        stack.callback(server.close)
        server.listen(port)
        server.execute(
            "CREATE ROLE keeper SUPERUSER LOGIN", "ALTER ROLE keeper SET tcp_keepalives_idle = 99"
        )
        server.settings["PORT"] = str(port)
        stack.enter_context(django_db_blocker.unblock())
        stack.enter_context(connected_to(server))
        call_command("migrate", verbosity=0)
        yield server


@pytest.fixture
def pooled(listening: Listening, tmp_path: Path) -> Iterator[int]:
    """Start a PgBouncer that pools transactions, and yield its port."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        missing = pytest.fail if is_required("pgbouncer") else pytest.skip
        missing("no PgBouncer here: apt-get install pgbouncer")
    port = _free_port()
    directory = Path(listening.settings["HOST"])  # Its user may read it.
    ini = directory / "pgbouncer.ini"
    ini.write_text(
        f"[databases]\nbgtask = host=127.0.0.1 port={listening.settings['PORT']} user=postgres\n"
        f"[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\nunix_socket_dir=\n"
        "auth_type=any\npool_mode=transaction\ndefault_pool_size=1\nignore_startup_parameters=options\n"
    )
    ini.chmod(0o644)
    process = subprocess.Popen([program, "-q", str(ini)], user=listening.user, cwd="/")
    try:
        eventually(lambda: _listens(port), explain=process.poll)
        yield port
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _seen_by_a_task(server: Listening, tmp_path: Path, **settings: object) -> str:
    """Run a worker with these settings, and return what its task sees of the connection."""
    task = tasks.ask(SHOW)
    entry = {**server.settings, "DISABLE_SERVER_SIDE_CURSORS": True, **settings}
    env = {
        **os.environ,
        "BGTASK_TEST_DATABASE": json.dumps(entry),
        "BGTASK_TEST_APPS": APPS,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
    }
    worker = Child("process_tasks", "--drain", env=env, log=tmp_path / "log")
    try:
        assert worker.wait(60) == 0, worker.output()
        task.refresh_from_db()
        assert task.status == "SUCCESSFUL", (task.last_error, worker.output())
        return str(json.loads(task.return_value or "null"))
    finally:
        worker.kill()
        Task.objects.all().delete()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"HOST": "127.0.0.1"}, OURS),
        ({"HOST": "127.0.0.1", "USER": "keeper"}, "3 99 5 30000"),
        (
            {"HOST": "127.0.0.1", "OPTIONS": {"options": "-c tcp_keepalives_idle=98"}},
            "3 98 5 30000",
        ),
        ({}, "0 0 0 0"),
    ],
    ids=["tcp", "set for the role", "set by the project", "socket"],
)
def test_server_soon_notices_that_the_host_of_a_task_is_gone(
    listening, tmp_path, settings, expected
):
    assert _seen_by_a_task(listening, tmp_path, **settings) == expected


def test_nothing_is_set_behind_a_pooler(listening, pooled, tmp_path):
    seen = _seen_by_a_task(listening, tmp_path, HOST="127.0.0.1", PORT=str(pooled))

    _, idle, _, user_timeout = seen.split()
    assert idle not in ("0", "15")  # 0: then it would not be TCP, and nothing could be set.
    assert user_timeout == "0"


@pytest.mark.parametrize("through_pooler", [False, True])
def test_is_direct_distinguishes_a_pooler_from_a_server(listening, pooled, through_pooler):
    port = str(pooled) if through_pooler else listening.settings["PORT"]
    other = connections.create_connection("default")
    other.settings_dict = {**connection.settings_dict, "HOST": "127.0.0.1", "PORT": port}
    try:
        assert is_direct(other) is not through_pooler
    finally:
        other.close()
