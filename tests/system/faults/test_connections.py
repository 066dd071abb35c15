"""Matrix rows 1, 22, 54: who has a connection, how long it is kept, and what if it is cut."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from textwrap import dedent

import pytest
from django.db import connection

from bgtask.models import Attempt, Worker
from tests.helpers import eventually
from tests.processes import ROOT, open_files
from tests.system.faults import tasks
from tests.system.faults.servers import django_settings
from tests.system.faults.testbed import APPS, proxied

LONG_LEASE = {"LEASE": 3_600, "HEARTBEAT_INTERVAL": 1}


@pytest.fixture
def reached(testbed):
    """Yield a testbed that reaches its server by TCP.

    A test can then tell which process a connection belongs to.
    """
    with proxied(testbed.server) as testbed.proxy:
        yield testbed


def connections_of(pid, testbed):
    """How many this very process has to the database."""
    files = open_files(pid)
    if testbed.proxy is None:
        return files.count(testbed.server.settings["NAME"])
    return sum(f"socket:[{inode}]" in files for inode in _sockets_to(testbed.proxy.port))


def _sockets_to(port):
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, *_, inode = line.split()[:10]
        if remote.endswith(f":{port:04X}"):
            yield inode


def test_supervisor_is_connected_only_while_it_rescues_tasks(reached):
    task = tasks.nap(600)
    supervisor = reached.worker("--processes=2", **LONG_LEASE)
    eventually(lambda: Worker.objects.alive().count() == 2, timeout=30, explain=supervisor.output)
    (execution,) = eventually(
        lambda: reached.execution_log.executions(task.pk), timeout=30, explain=supervisor.output
    )

    assert connections_of(execution.start.pid, reached) > 1
    assert connections_of(supervisor.pid, reached) == 0

    reached.kill(execution.start.pid)
    # With such a lease no other worker may.
    eventually(Attempt.objects.filter(task=task).exists, timeout=30, explain=supervisor.output)
    eventually(lambda: connections_of(supervisor.pid, reached) == 0, explain=supervisor.output)


each_setting = pytest.mark.parametrize(
    "database",
    [
        {"CONN_MAX_AGE": 0},
        {"CONN_MAX_AGE": None},
        {"CONN_MAX_AGE": 1, "CONN_HEALTH_CHECKS": True},
    ],
    ids=["closed-at-once", "never-closed", "closed-soon-and-checked"],
)


class Probe:
    """An app that notes which of a worker's threads connects to the database."""

    def __init__(self, path):
        self._notes = path / "notes"
        app = path / "witness"
        app.mkdir(parents=True)
        (app / "__init__.py").touch()
        (app / "apps.py").write_text(
            dedent(f"""
                import threading
                from django.apps import AppConfig
                from django.db.backends.signals import connection_created

                class Probe(AppConfig):
                    name = "witness"

                    def ready(self):
                        connection_created.connect(note)

                def note(**facts):
                    with open({str(self._notes)!r}, "a") as notes:
                        print(threading.current_thread().name, file=notes)
            """)
        )
        self.env = {
            "BGTASK_TEST_APPS": f"{APPS},witness",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(path)]),
        }

    def connected(self):
        """Which thread did, and how often."""
        return Counter(self._notes.read_text().splitlines())


@pytest.fixture
def witness(tmp_path):
    return Probe(tmp_path / "apps")


@each_setting
def test_healthy_connection_is_kept_with_any_conn_max_age(testbed, settled, witness, database):
    env = {**witness.env, "BGTASK_TEST_DATABASE": django_settings(testbed.server, **database)}
    testbed.worker(env=env, **LONG_LEASE)
    tasks.query.enqueue_many([()] * 20)
    settled()
    before = witness.connected()

    tasks.nap(1.1)
    tasks.query.enqueue_many([()] * 20)
    audit = settled()

    after = witness.connected()
    assert audit.executions == {1: 41}
    assert before.keys() >= {"MainThread", "bgtask-1", "bgtask-completer"}
    assert {thread: after[thread] for thread in before} == before


@each_setting
def test_connection_that_was_cut_costs_at_most_one_attempt_and_none_with_health_checks(
    served, settled, database
):
    env = {"BGTASK_TEST_DATABASE": django_settings(served.server, **database)}
    served.worker(env=env, **LONG_LEASE)
    tasks.query.enqueue_many([()] * 20)
    settled()

    connection.close()
    cut = set(served.server.connection_ids())
    served.server.cut_all()
    eventually(lambda: cut.isdisjoint(served.server.connection_ids()))
    tasks.query.enqueue_many([()] * 20)
    audit = settled()

    assert len(cut) > 1
    assert audit.statuses == {"SUCCESSFUL": 40}
    assert audit.executions.get(1, 0) >= 39
    assert max(audit.executions) <= (1 if database.get("CONN_HEALTH_CHECKS") else 2)
