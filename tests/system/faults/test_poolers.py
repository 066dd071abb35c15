"""
Connection poolers between workers and PostgreSQL: what works in each of their modes.

The module is long because each mode of a pooler is tested with the same setup.
"""

from __future__ import annotations

import contextlib
import json
import threading
from itertools import chain

import pytest
from django.db import connection, connections

from bgtask.db.postgresql import CHANNEL
from bgtask.models import Task, Worker
from bgtask.worker import poolers
from bgtask.worker.listeners import PostgresListener, Waker
from bgtask.worker.poolers import NotHeard, is_direct
from bgtask_admin.actions.preview import Preview
from bgtask_admin.actions.registry import ACTIONS, Verb
from bgtask_admin.tasks.counts import CAP
from bgtask_admin.tasks.selection import Selection
from tests.databases import ServerMissing
from tests.helpers import eventually, is_required
from tests.system.faults import tasks
from tests.system.faults.conftest import connected_to
from tests.system.faults.poolers import conninfo, pgbouncer
from tests.system.faults.servers import django_settings

psycopg = pytest.importorskip("psycopg")

pytestmark = pytest.mark.vendor("postgresql")

LONG_LEASE = {"LEASE": 60, "HEARTBEAT_INTERVAL": 1}
POLLS = "This worker polls for new tasks"
REFUSES = "connection pooler in statement mode, which allows no transactions. Set pool_mode"


@pytest.fixture
def pooler(testbed):
    with contextlib.ExitStack() as stack:
        try:
            mine = stack.enter_context(pgbouncer(testbed.server))
        except ServerMissing as error:
            (pytest.fail if is_required("pgbouncer") else pytest.skip)(str(error))
        yield mine
        print(mine.log)  # noqa: T201  # pytest shows it on failure.


@pytest.fixture
def through(pooler, testbed):
    """Start a command that is connected by way of the pooler."""

    def start(command, *args, others=None, **settings):
        env = {
            "BGTASK_TEST_DATABASE": json.dumps(pooler.settings),
            "BGTASK_TEST_DATABASES": json.dumps(others or {}),
        }
        return testbed.command(command, *args, env=env, **{**LONG_LEASE, **settings})

    return start


@pytest.fixture
def listener(testbed):
    """Yield the listening part of a worker, in this process."""
    waker = Waker()
    listen = PostgresListener(waker, "default")
    yield listen
    listen.close()
    waker.close()


@contextlib.contextmanager
def own_connection(alias="default"):
    """Yield a connection like the one that a worker listens on."""
    mine = connections[alias].copy()
    try:
        yield mine
    finally:
        mine.close()


@contextlib.contextmanager
def traffic(pooler, clients=3):
    """Other clients run short transactions all the time."""
    stopping = threading.Event()

    def ask():
        with psycopg.connect(
            conninfo(pooler.settings), autocommit=True, prepare_threshold=None
        ) as client:
            while not stopping.is_set():
                client.execute("SELECT pg_sleep(0.002)")

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def channels_of_each_session(pooler, size):
    """Return the channels that each session listens to, in a pool of ``size`` sessions."""
    with contextlib.ExitStack() as stack:
        found = {}
        for _ in range(size):  # Each keeps its session until the last one has got its own.
            client = stack.enter_context(psycopg.connect(conninfo(pooler.settings)))
            pid, channels = client.execute(
                "SELECT pg_backend_pid(), ARRAY(SELECT pg_listening_channels())"
            ).fetchone()
            found[pid] = channels
    assert len(found) == size
    return found


def until_alive(child):
    eventually(Worker.objects.alive().exists, timeout=60, explain=child.output)


def until_it_says(child, words):
    eventually(lambda: words in child.output(), timeout=60, explain=child.output)


def wakes(settled, child):
    """Enqueue several times; only a notification can wake a worker that sleeps for an hour."""
    until_alive(child)
    for number in range(3):
        tasks.quick(number)
        settled()


# Whether there is a pooler


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_pooler_is_distinguished_from_a_direct_connection(pooler, mode):
    assert is_direct(connection)

    with connected_to(pooler.start(mode)):
        assert not is_direct(connection)


# Session mode


def test_worker_is_woken_through_a_pooler_in_session_mode(pooler, through, settled):
    pooler.start("session")

    worker = through("process_tasks", "--sleep=3600")

    wakes(settled, worker)
    assert POLLS not in worker.output()


def test_notifications_pass_a_pooler_in_session_mode(pooler):
    with (
        connected_to(pooler.start("session")),
        traffic(pooler),
        own_connection() as mine,
    ):
        poolers.check_notifications(mine, "default")

        with mine.cursor() as cursor:
            cursor.execute("SELECT pg_listening_channels()")
            assert cursor.fetchall() == []


# Transaction mode


@pytest.mark.sample
def test_worker_polls_and_logs_it_once_behind_a_pooler_in_transaction_mode(
    pooler, through, settled
):
    """Kind: a registration that stays with a server connection which others use."""
    pooler.start("transaction", pool_size=2)
    worker = through("process_tasks", "--sleep=0.5")
    until_it_says(worker, POLLS)

    with psycopg.connect(
        conninfo(pooler.settings), autocommit=True, prepare_threshold=None
    ) as client:
        for number in range(50):
            tasks.quick(number)
            client.execute("SELECT pg_notify(%s, 'default')", [CHANNEL])  # As enqueuing does.
        received = list(client.notifies(timeout=0))
    audit = settled()

    assert audit.statuses == {"SUCCESSFUL": 50}
    assert received == []
    assert set(map(tuple, channels_of_each_session(pooler, 2).values())) == {()}
    assert worker.output().count(POLLS) == 1
    assert "'default' is behind a connection pooler" in worker.output()
    assert "got packet 'A' from server when not linked" not in pooler.log


@pytest.mark.parametrize("pool_size", [1, 3])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("rounds", [0, poolers.ROUNDS], ids=["echo-alone", "sessions-compared"])
def test_transaction_mode_is_noticed_and_nothing_keeps_listening(
    pooler, monkeypatch, pool_size, busy, rounds
):
    """Kind: a proof that succeeds by luck, or that leaves behind what it tests for."""
    monkeypatch.setattr(poolers, "ROUNDS", rounds)
    pooler.start("transaction", pool_size=pool_size)

    with (
        connected_to(pooler),
        traffic(pooler) if busy else contextlib.nullcontext(),
        own_connection() as mine,
        pytest.raises(NotHeard, match="no session of their own"),
    ):
        poolers.check_notifications(mine, "default")

    left = set(chain(*channels_of_each_session(pooler, pool_size).values()))
    assert CHANNEL not in left
    if rounds or not busy:  # Else others may have kept the session to themselves.
        assert left == set()


def test_sessions_that_are_shared_are_noticed_without_listening(pooler, monkeypatch):
    monkeypatch.setattr(poolers, "_hears", None)  # It would be called otherwise.

    with (
        connected_to(pooler.start("transaction")),
        own_connection() as mine,
        pytest.raises(NotHeard),
    ):
        poolers.check_notifications(mine, "default")


def test_reason_is_logged_once_for_many_tries(pooler, listener, caplog, monkeypatch):
    monkeypatch.setattr("bgtask.worker.listeners.PROVE_AGAIN_SECONDS", 0.0)

    with connected_to(pooler.start("transaction")):
        for _ in range(3):
            listener.arm()

    assert caplog.text.count(POLLS) == 1


def test_listener_is_checked_again_after_the_pooler_has_restarted(pooler, listener, caplog):
    """Kind: a proof that outlives what it was about."""
    with connected_to(pooler.start("session")):
        listener.arm()
        assert POLLS not in caplog.text

        pooler.stop()
        connection.close()
        pooler.start("transaction")
        listener.arm()  # Notices that its connection has gone.
        listener.arm()

        assert caplog.text.count(POLLS) == 1


# BGTASK["LISTEN"]


def test_worker_listens_on_the_direct_connection_that_is_named(pooler, through, testbed, settled):
    pooler.start("transaction")
    direct = json.loads(django_settings(testbed.server))

    worker = through("process_tasks", "--sleep=3600", others={"direct": direct}, LISTEN="direct")

    wakes(settled, worker)
    assert POLLS not in worker.output()


def test_worker_listens_on_a_connection_without_autocommit(through, pooler, testbed, settled):
    """Kind: a statement that takes effect with a commit which never comes."""
    pooler.start("transaction")
    direct = {**json.loads(django_settings(testbed.server)), "AUTOCOMMIT": False}

    worker = through("process_tasks", "--sleep=3600", others={"direct": direct}, LISTEN="direct")

    wakes(settled, worker)
    assert POLLS not in worker.output()


def test_worker_does_not_listen_if_listen_is_false(testbed, settled):
    worker = testbed.worker(LISTEN=False, **LONG_LEASE)
    tasks.quick()
    settled()

    asked = testbed.server.execute("SELECT query FROM pg_stat_activity WHERE query LIKE 'LISTEN %'")

    assert asked == []
    assert POLLS not in worker.output()


def test_worker_polls_and_logs_it_if_listen_names_another_database(
    through, pooler, testbed, settled
):
    """Kind: a connection that is healthy, and to the wrong place."""
    testbed.server.execute("DROP DATABASE IF EXISTS elsewhere", "CREATE DATABASE elsewhere")
    pooler.start("transaction")
    elsewhere = json.loads(django_settings(testbed.server, NAME="elsewhere"))

    worker = through(
        "process_tasks", "--sleep=0.5", others={"elsewhere": elsewhere}, LISTEN="elsewhere"
    )
    until_it_says(worker, "'elsewhere' receives no notifications of 'default'")
    tasks.quick()
    settled()

    assert worker.output().count(POLLS) == 1


# Statement mode


@pytest.mark.parametrize(
    "command",
    [
        ("process_tasks",),
        ("process_tasks", "--processes=2"),
        ("prune_tasks",),
        ("bgtask_requeue", "--queue=default"),
    ],
    ids=" ".join,
)
def test_command_refuses_a_pooler_in_statement_mode(pooler, through, command):
    """Kind: a database that takes single statements and refuses what the protocol needs."""
    pooler.start("statement")

    child = through(*command)

    assert child.wait(60) == 1
    assert child.output().count(REFUSES) == 1
    assert "Traceback" not in child.output()


@pytest.mark.parametrize("processes", [1, 2])
def test_worker_refuses_statement_mode_also_once_the_pooler_comes_back(pooler, through, processes):
    child = through("process_tasks", f"--processes={processes}")
    until_it_says(child, "The database does not answer")

    pooler.start("statement")

    assert child.wait(60) == 1
    assert REFUSES in child.output()
    assert not Worker.objects.exists()


# The admin


def test_preview_is_read_through_a_busy_pooler_in_transaction_mode(pooler):
    """Kind: a cursor that is left open between two statements."""
    tasks.quick.enqueue_many([(number,) for number in range(5_000)])
    selection = Selection.parse_narrow({"queue": "default"})

    with connected_to(pooler.start("transaction", pool_size=4)), traffic(pooler):
        for _ in range(5):
            seen = Preview.take(ACTIONS[Verb.CANCEL], selection).breakdown(CAP)
            assert seen.looked_at == 5_000

    assert Task.objects.count() == 5_000
