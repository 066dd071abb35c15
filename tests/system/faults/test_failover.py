"""
A PostgreSQL primary is lost and its standby promoted, and the old primary may come back.

The module is long because each case needs the same pair of servers.
"""

from __future__ import annotations

import contextlib
import re
import threading
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import Error, OperationalError, connection, connections

from bgtask.models import Attempt, Task, Worker
from bgtask.status import WorkerState
from bgtask.worker.primary import Primary
from tests.databases import ServerMissing
from tests.helpers import eventually
from tests.processes import descendants
from tests.system.faults import tasks
from tests.system.faults.conftest import connected_to
from tests.system.faults.replication import pair as new_pair
from tests.system.faults.servers import Server, django_settings
from tests.system.faults.testbed import Testbed, proxied

pytestmark = pytest.mark.vendor("postgresql")

NOTHING_IS_SAID = "REVOKE EXECUTE ON FUNCTION pg_current_wal_lsn() FROM PUBLIC"


@pytest.fixture
def pair():
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(new_pair())
        except ServerMissing as error:
            pytest.skip(str(error))


@pytest.fixture
def testbed(pair, django_db_blocker, tmp_path, monkeypatch):
    """A testbed whose database, for this process too, is whichever of the two can be written to."""
    monkeypatch.setenv("BGTASK_TEST_EXECUTION_LOG", "")
    with django_db_blocker.unblock(), connected_to(Server(pair.settings)):
        call_command("migrate", verbosity=0)
        pair.await_standby()
        testbed = Testbed(pair.primary, tmp_path)
        yield testbed
        testbed.close()
        print(testbed.output())  # noqa: T201  # pytest shows it on failure.


class Enqueuer:
    """Enqueue on a thread, and keep the ids of those tasks whose enqueue was acknowledged."""

    def __init__(self):
        self.acknowledged = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._over.set()
        self._thread.join()

    def await_more(self, count, explain):
        goal = len(self.acknowledged) + count
        eventually(lambda: len(self.acknowledged) >= goal, timeout=30, explain=explain)

    def _run(self):
        number = 0
        while not self._over.wait(0.02):
            number += 1
            try:
                self.acknowledged.add(tasks.quick(number).pk)
            except Error:
                connection.close()
        connection.close()


def fail_over(pair):
    """Crash the primary, and promote the standby in its place."""
    pair.primary.crash()
    connection.close()
    pair.promote()


def workers_on(server):
    """Return the ids of a server's worker rows, and the pids of its connections to workers."""
    ids = server.execute("SELECT id FROM bgtask_worker ORDER BY id")
    pids = server.execute("SELECT pid FROM pg_stat_activity WHERE usename = 'worker'")
    return [id_ for (id_,) in ids], [pid for (pid,) in pids]


def await_refused_beats(worker):
    """Wait until many beats have failed: of an outage's, the first and the tenth are logged."""
    refused = re.compile("The heartbeat of .* former primary")
    eventually(lambda: refused.search(worker.output()), timeout=30, explain=worker.output)


def await_beats(worker):
    """Wait until the worker has been at work for a second more."""
    row = Worker.objects.alive().get(pid=worker.pid)
    later = Worker.objects.filter(
        pk=row.pk, heartbeat_at__gt=row.heartbeat_at + timedelta(seconds=1)
    )
    eventually(later.exists, timeout=30, explain=worker.output)


def test_synchronous_failover_loses_nothing_and_doubles_nothing(pair, testbed, settled):
    """Kind: commits lost with the primary."""
    pair.make_synchronous()
    worker = testbed.worker("--threads=4", env=pair.for_workers())
    with Enqueuer() as enqueuer:
        enqueuer.await_more(40, explain=worker.output)

        fail_over(pair)

        enqueuer.await_more(40, explain=worker.output)
    audit = settled(enqueuer.acknowledged)

    assert set(audit.statuses) == {"SUCCESSFUL"}
    assert max(audit.executions) <= 2


def test_outcome_of_a_lost_claim_is_never_accepted(pair, testbed, tmp_path):
    """Kind: commits lost with the primary, which the workers outlive."""
    path = tmp_path / "go"
    task = tasks.wait_for(str(path))
    pair.await_standby()
    with pair.lagging():
        worker = testbed.worker("--threads=2", env=pair.for_workers())
        eventually(
            lambda: testbed.execution_log.executions(task.pk), timeout=30, explain=worker.output
        )
        pair.primary.crash()
    connection.close()
    pair.promote()

    both = eventually(
        lambda: (
            testbed.execution_log.executions(task.pk)[1:]
            and testbed.execution_log.executions(task.pk)
        ),
        timeout=30,
        explain=worker.output,
    )
    path.touch()
    eventually(Task.objects.filter(pk=task.pk).finished().exists, timeout=30)
    task.refresh_from_db()

    assert both[0].start.token != both[1].start.token
    assert task.token == both[1].start.token


def test_asynchronous_failover_confuses_no_results(pair, testbed):
    """Kind: commits lost with the primary, whose ids and tokens are given out again."""
    worker = testbed.worker("--threads=4", env=pair.for_workers())
    with Enqueuer() as enqueuer:
        enqueuer.await_more(30, explain=worker.output)
        safe = set(enqueuer.acknowledged)
        pair.await_standby()
        with pair.lagging():
            enqueuer.await_more(60, explain=worker.output)
            pair.primary.crash()
        pair.promote()
        enqueuer.await_more(40, explain=worker.output)
    connection.close()
    eventually(lambda: not Task.objects.live().exists(), timeout=30, explain=worker.output)

    rows = {task.pk: task for task in Task.objects.all()}
    ended = {(one.task, one.start.token) for one in testbed.execution_log.executions() if one.end}
    tokens = [(one.task, one.start.token) for one in testbed.execution_log.executions()]
    assert safe <= rows.keys()
    assert {task.status for task in rows.values()} == {"SUCCESSFUL"}
    assert {pk for pk, task in rows.items() if (pk, task.token) not in ended} == set()
    assert all(f"[[{task.return_value}]" in task.task_params for task in rows.values())
    assert len(tokens) == len(set(tokens))


def test_former_primary_that_comes_back_gets_no_writes(pair, testbed, settled):
    """Kind: two servers behind one name."""
    env = pair.for_workers(target_session_attrs="any")
    worker = testbed.worker("--threads=2", env=env, LEASE=60, HEARTBEAT_INTERVAL=0.5)
    settled({tasks.query().pk})
    pair.await_standby()
    fail_over(pair)
    settled({tasks.query().pk})
    pair.primary.start()
    before, _ = workers_on(pair.primary)

    for pid in workers_on(pair.standby)[1]:
        pair.standby.cut(pid)
    eventually(lambda: "former primary" in worker.output(), timeout=30, explain=worker.output)
    connections["default"].close()
    with connected_to(Server(pair.standby.settings)):
        committed = {tasks.query().pk for _ in range(5)}
        await_refused_beats(worker)
        started = {one.task for one in testbed.execution_log.executions()}
        after, connected = workers_on(pair.primary)
        pair.primary.stop()
        audit = settled(committed)

    assert not committed & started
    assert (after, connected) == (before, [])
    refusals = [line for line in worker.output().splitlines() if "Refused a connection" in line]
    assert len([line for line in refusals if "former primary" in line]) == 1
    assert worker.is_running()
    assert max(audit.executions) <= 2  # A connection that was cut may cost an attempt.


def test_tasks_wait_while_new_connections_are_refused(pair, testbed, settled):
    """Kind: two servers behind one name. The worker itself is still connected to the right one."""
    env = pair.for_workers(target_session_attrs="any")
    worker = testbed.worker(env=env, LEASE=60, HEARTBEAT_INTERVAL=0.5)
    settled({tasks.query().pk})
    pair.await_standby()
    fail_over(pair)
    settled({tasks.query().pk})
    pair.primary.start()

    of_the_task = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT 1'"
    for (pid,) in pair.standby.execute(f"{of_the_task} AND usename = 'worker'"):
        pair.standby.cut(pid)
    connection.close()
    with connected_to(Server(pair.standby.settings)):
        committed = {tasks.query().pk for _ in range(20)}
        eventually(lambda: "former primary" in worker.output(), explain=worker.output)
        await_beats(worker)  # Long enough to fail them all.
        failed = Attempt.objects.count()
        pair.primary.stop()
        audit = settled(committed)

    assert failed <= 3
    assert audit.statuses == {"SUCCESSFUL": 22}


def test_worker_that_reaches_only_a_former_primary_leaves_to_be_replaced(pair, testbed, settled):
    """Kind: two servers behind one name. Only a new process may take the other one as right."""
    env = pair.for_workers(target_session_attrs="any")
    worker = testbed.worker("--threads=2", env=env)
    settled({tasks.query().pk})
    pair.await_standby()
    fail_over(pair)
    settled({tasks.query().pk})

    pair.standby.crash()
    pair.primary.start()

    assert worker.wait() == 1
    assert "This process stops: for" in worker.output()
    after = testbed.worker(env=env)
    connection.close()
    task = tasks.query()
    accepted = Task.objects.filter(pk=task.pk).succeeded()
    eventually(accepted.exists, timeout=30, explain=after.output)


def test_connections_to_the_older_server_end_when_a_newer_one_is_seen(pair, testbed, settled):
    """Kind: two servers behind one name. The older one has never been away."""
    env = pair.for_workers(pair.standby, pair.primary)
    worker = testbed.worker("--threads=2", env=env, LEASE=60, HEARTBEAT_INTERVAL=0.5)
    settled({tasks.query().pk for _ in range(5)})
    pair.await_standby()
    (known,), connected = workers_on(pair.primary)

    pair.promote()
    pair.primary.cut(connected[0])

    eventually(lambda: not workers_on(pair.primary)[1], timeout=30, explain=worker.output)
    connection.close()
    with connected_to(Server(pair.standby.settings)):
        settled({tasks.query().pk for _ in range(5)})
    assert workers_on(pair.primary) == ([known], [])


def test_worker_whose_threads_are_on_two_servers_leaves_to_be_replaced(pair, testbed):
    """Kind: two servers behind one name that don't say which of them is the primary."""
    pair.primary.execute(NOTHING_IS_SAID)
    pair.await_standby()
    pair.promote()
    beat = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'UPDATE \"bgtask_worker\"%'"
    with proxied(pair.primary) as proxy:
        wire = {"HOST": "127.0.0.1", "PORT": str(proxy.port)}
        env = {"BGTASK_TEST_DATABASE": django_settings(pair.primary, **wire)}
        worker = testbed.worker(env=env, LEASE=60, HEARTBEAT_INTERVAL=0.5)
        ((beating,),) = eventually(
            lambda: pair.primary.execute(beat), timeout=30, explain=worker.output
        )
        proxy.lead_to(pair.standby.socket)
        pair.primary.cut(beating)

        assert worker.wait() == 1
    assert "connected to two servers" in worker.output()
    assert len(workers_on(pair.primary)[0]) == 2


def test_supervisor_rescues_nothing_on_a_former_primary(pair, testbed, settled):
    """Kind: two servers behind one name. The supervisor connects only when a process has died."""
    env = pair.for_workers(target_session_attrs="any")
    supervisor = testbed.worker("--processes=2", env=env, LEASE=60, HEARTBEAT_INTERVAL=0.5)
    settled({tasks.query().pk})
    first, second = descendants(supervisor.pid)
    pair.await_standby()
    fail_over(pair)
    testbed.kill(first)
    dead = Worker.objects.filter(pid=first, state=WorkerState.DEAD)
    eventually(dead.exists, timeout=30, explain=supervisor.output)

    pair.primary.start()
    testbed.kill(second)

    refused = re.compile("when its lease ends: The connection leads to a former primary")
    eventually(lambda: refused.search(supervisor.output()), timeout=30, explain=supervisor.output)
    states = pair.primary.execute(f"SELECT state FROM bgtask_worker WHERE pid = {second}")
    assert states == [(WorkerState.ALIVE,)]


def test_another_cluster_is_refused(pair, testbed, own_server):
    """Kind: two servers behind one name, whose timelines can't be compared."""
    primary = Primary("default")
    with connected_to(own_server), primary.comparing():
        connections["default"].ensure_connection()
        with connected_to(Server(pair.settings)):
            with pytest.raises(OperationalError, match="leads to another cluster"):
                connections["default"].ensure_connection()
            assert primary.stale_for() > 0
        connections["default"].close()
        connections["default"].ensure_connection()
        assert primary.stale_for() == 0
        assert not primary.refused


def test_standby_is_refused_for_the_queue_and_allowed_for_other_databases(pair, testbed):
    """Kind: a server that can't be written to."""
    primary = Primary("default")
    with connected_to(Server(pair.standby.settings)), primary.comparing():
        with pytest.raises(OperationalError, match="leads to a standby"):
            connections["default"].ensure_connection()
        assert connections["default"].connection is None
        assert primary.refused
        assert primary.stale_for() == 0

        replica = connections["default"].copy(alias="replica")
        replica.ensure_connection()
        assert replica.is_usable()
        replica.close()

        pair.promote()
        primary.try_again()
        assert not primary.refused
        connections["default"].close()


def test_server_without_an_identity_is_not_compared(pair, testbed, settled):
    """Kind: a managed PostgreSQL, which allows less."""
    pair.primary.execute(NOTHING_IS_SAID)
    worker = testbed.worker("--threads=2", "--log-level=DEBUG", env=pair.for_workers())

    audit = settled({tasks.query().pk for _ in range(5)})

    assert audit.executions == {1: 5}
    assert worker.output().count("Not comparing the servers") == 1
    assert not {"WARNING", "ERROR"} & set(worker.output().split())


def test_worker_waits_for_the_promotion_of_a_standby(pair, testbed, settled):
    """Kind: a server that can't be written to."""
    task = tasks.query()
    pair.await_standby()
    env = pair.for_workers(pair.standby, target_session_attrs="any")
    worker = testbed.worker(env=env)
    eventually(lambda: "leads to a standby" in worker.output(), explain=worker.output)

    fail_over(pair)

    assert settled({task.pk}).executions == {1: 1}
    assert Worker.objects.alive().exists()
