"""Test that each statement finds its rows by an index, so that ten million rows cost no more."""

from __future__ import annotations

import pytest
from django.db import connection

from bgtask.db import DatabaseNow, operations_for
from bgtask.lifecycle.claim import (
    claim_notified,
    claim_queue,
    claim_suspect,
    release_claims,
    take_snapshot,
)
from bgtask.lifecycle.finish import finish_attempts
from bgtask.lifecycle.promote import promote_due, unhold_expired, unhold_known
from bgtask.lifecycle.rescue import rescue_tasks
from bgtask.lifecycle.retention import Pruning
from bgtask.models import Task, Worker
from bgtask.status import HeldFor, Status
from tests.bgtask.lifecycle.outcomes import failure, success
from tests.bgtask.lifecycle.plans import plan_of
from tests.factories import WorkerFactory

pytestmark = pytest.mark.django_db

BATCH = 50
QUEUES = 20

DIGITS = " UNION ALL ".join(f"SELECT {digit} AS n" for digit in range(10))
NUMBERS = f"""
    SELECT a.n + 10 * b.n + 100 * c.n + 1000 * d.n + 10000 * e.n AS n FROM ({DIGITS}) AS a
    CROSS JOIN ({DIGITS}) AS b CROSS JOIN ({DIGITS}) AS c CROSS JOIN ({DIGITS}) AS d
    CROSS JOIN ({DIGITS}) AS e
"""
# Or they would be renewed behind our back.
STATISTICS_BY_HAND = {
    "mysql": "ALTER TABLE bgtask_task STATS_AUTO_RECALC = 0",
    "postgresql": "ALTER TABLE bgtask_task SET (autovacuum_enabled = false)",
}
STATISTICS_AS_USUAL = {
    "mysql": "ALTER TABLE bgtask_task STATS_AUTO_RECALC = DEFAULT",
    "postgresql": "ALTER TABLE bgtask_task RESET (autovacuum_enabled)",
}
EMPTY = {"postgresql": "TRUNCATE bgtask_task CASCADE"}
FINISHED_AT = "CASE WHEN n.n % 10 < 7 THEN {now} END"
STATUS = """CASE n.n % 10 WHEN 7 THEN 'HELD' WHEN 8 THEN 'SCHEDULED' WHEN 9 THEN 'SCHEDULED'
            WHEN 5 THEN 'FAILED' WHEN 6 THEN 'CANCELLED' ELSE 'SUCCESSFUL' END"""
HELD_FOR = "CASE n.n % 10 WHEN 7 THEN 'operator' END"


@pytest.fixture(scope="module", params=["fresh statistics", "those of an empty table"])
def loaded(request, django_db_setup, django_db_blocker):
    """Store 100,000 tasks that can't be claimed, and some that can."""
    with django_db_blocker.unblock():
        execute(STATISTICS_BY_HAND.get(connection.vendor, "SELECT 1"))
        analyze()
        load()
        if request.param == "fresh statistics":
            analyze()
        yield request.param
        # PostgreSQL would remember how large the table was.
        execute(EMPTY.get(connection.vendor, "DELETE FROM bgtask_task"))
        Worker.objects.all().delete()
        analyze()
        execute(STATISTICS_AS_USUAL.get(connection.vendor, "SELECT 1"))


def load():
    now = operations_for(connection).clock(connection)
    later = operations_for(connection).clock(connection, "3600")
    execute(f"""
        INSERT INTO bgtask_task
            (task_name, queue, status, held_for, run_at, enqueued_at, finished_at, token, attempts)
        SELECT 'tests.tasks.noop', 'default', {STATUS}, {HELD_FOR},
            CASE n.n % 10 WHEN 9 THEN {later} ELSE {now} END, {now},
            {FINISHED_AT.format(now=now)}, 1, 1
        FROM ({NUMBERS}) AS n
    """)
    execute(f"""
        INSERT INTO bgtask_task (task_name, queue, status, priority, run_at, enqueued_at)
        SELECT 'tests.tasks.noop', 'default', 'READY', n.n % 3, {now}, {now}
        FROM ({NUMBERS}) AS n WHERE n.n < 2000
    """)
    execute(f"""
        INSERT INTO bgtask_task (task_name, queue, status, run_at, enqueued_at, crashes)
        SELECT 'tests.tasks.noop', {text("n.n % 20")}, 'READY', {now}, {now},
            CASE WHEN n.n < 10 THEN 1 ELSE 0 END
        FROM ({NUMBERS}) AS n WHERE n.n < 400
    """)
    claim_queue(WorkerFactory(), "default", 100)


def text(number):
    if connection.vendor == "mysql":
        return f"CONCAT('q', {number})"
    return f"'q' || CAST({number} AS text)"


def execute(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql.replace("%%", "%"))
        if cursor.description:
            cursor.fetchall()


def analyze():
    execute("ANALYZE TABLE bgtask_task" if connection.vendor == "mysql" else "ANALYZE bgtask_task")


@pytest.fixture
def worker(loaded):
    return WorkerFactory()


def shown(plan):
    return f"{connection.vendor}\n{plan.text}"


class TestClaim:
    @pytest.fixture(
        params=[
            "plain",
            "with a floor",
            "with a hint",
            pytest.param("of news", marks=pytest.mark.vendor("postgresql")),
        ]
    )
    def plan(self, request, worker):
        if request.param == "of news":
            return plan_of(lambda: claim_notified(worker, "default", BATCH))
        options = {"plain": {}, "with a floor": {"floor": 1}}.get(request.param)
        if options is None:
            last = claim_queue(worker, "default", BATCH)[-1]
            options = {"after": last.claim_key}
        return plan_of(lambda: claim(worker, **options))

    def test_claim_uses_its_index(self, plan):
        assert "bgtask_task_claim" in plan.indexes, shown(plan)
        assert not plan.reads_all, shown(plan)

    def test_claim_reads_in_index_order(self, plan):
        assert plan.sorts == [], shown(plan)

    def test_claim_reads_few_more_rows_than_it_takes(self, plan):
        if connection.vendor == "sqlite":
            pytest.skip("SQLite does not count rows; it stops at the LIMIT of an index in order")
        # Each task once to find it, and once by its primary key to change it.
        assert 0 < plan.rows <= 2 * BATCH + 5, shown(plan)


def claim(worker, **options):
    assert len(claim_queue(worker, "default", BATCH, **options)) == BATCH


def test_claim_of_a_suspect_uses_its_index(worker):
    plan = plan_of(lambda: claim_suspect(worker))

    assert "bgtask_task_claim" in plan.indexes, shown(plan)
    assert not plan.reads_all, shown(plan)
    assert plan.sorts == [], shown(plan)


@pytest.mark.parametrize("queues", [None, ["default", "q1", "q2", "none"]], ids=["all", "some"])
def test_snapshot_probes_the_index_once_per_queue(worker, queues):
    plan = plan_of(lambda: take_snapshot(queues))

    assert {"bgtask_task_claim", "bgtask_task_promote"} <= plan.indexes, shown(plan)
    assert not plan.reads_all, shown(plan)
    # The queues of the few suspects are not worth an index.
    assert [sort for sort in plan.sorts if "DISTINCT" not in sort] == [], shown(plan)
    if connection.vendor != "sqlite":
        # MariaDB reads some hundred tasks at a time where there are many queues; never a whole
        # queue of 2,000.
        most = 1_000 if connection.vendor == "mysql" and queues is None else 6 * (QUEUES + 1)
        assert plan.rows <= most, shown(plan)


def test_promotion_uses_its_index(worker):
    plan = plan_of(lambda: promote_due(BATCH))

    assert "bgtask_task_promote" in plan.indexes, shown(plan)
    assert not plan.reads_all, shown(plan)
    assert plan.sorts == [], shown(plan)
    if connection.vendor != "sqlite":
        assert plan.rows <= 2 * BATCH + 5, shown(plan)


def finish_a_batch(worker):
    tasks = list(Task.objects.running()[:BATCH])
    return lambda: finish_attempts(
        [(success if number % 2 else failure)(task) for number, task in enumerate(tasks)]
    )


def release_a_batch(worker):
    tasks = list(Task.objects.running()[:BATCH])
    return lambda: release_claims(tasks)


def rescue_the_lost(worker):
    Worker.objects.declare_dead()
    return rescue_tasks


def rescue_the_overdue(worker):
    overdue = Task.objects.running().order_by("pk").values_list("pk", flat=True)[:10]
    Task.objects.filter(pk__in=list(overdue)).update(deadline_at=DatabaseNow(-1))
    return rescue_tasks


ACTIONS = {
    "finish": finish_a_batch,
    "release": release_a_batch,
    "rescue of the lost": rescue_the_lost,
    "rescue of the overdue": rescue_the_overdue,
    "what a worker holds": lambda worker: (
        lambda: list(Task.objects.running().filter(locked_by=worker))
    ),
}


def test_flush_finds_its_tasks_by_primary_key(worker):
    claim_queue(worker, "default", 500)
    tasks = list(Task.objects.running().order_by("-pk")[:400])

    plan = plan_of(lambda: finish_attempts([success(task) for task in tasks]))

    assert not plan.reads_all, shown(plan)
    assert not any("locked" in name or "deadline" in name for name in plan.indexes), shown(plan)
    assert "BLOOM" not in plan.text, "to build the filter SQLite reads the whole table"


CHORES = {
    "unhold of known names": lambda worker: lambda: unhold_known({"tests.tasks.noop"}.__contains__),
    "end of a hold": lambda worker: unhold_expired,
    "prune": lambda worker: lambda: next(Pruning(Status.CANCELLED, -3600, batch_size=BATCH)),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_no_frequent_statement_reads_the_whole_table(worker, action):
    plan = plan_of(ACTIONS[action](worker))

    assert not plan.reads_all, shown(plan)


@pytest.mark.parametrize("chore", CHORES)
def test_no_maintenance_job_reads_the_whole_table(worker, loaded, chore):
    if loaded != "fresh statistics":
        pytest.skip("once a minute it may, until the table is analyzed")

    plan = plan_of(CHORES[chore](worker))

    assert not plan.reads_all, shown(plan)


def test_missing_index_is_noticed(worker):
    """Check that the tests above can fail."""
    plan = plan_of(lambda: list(Task.objects.filter(verbose_name="x").order_by("duration_ms")))

    assert plan.reads_all
    assert plan.sorts


def test_table_matches_its_description(worker):
    counts = Task.objects.count_by_status()

    assert sum(counts.values()) == 100_000 + 2_400
    assert counts[Status.READY] == 2_300
    assert counts[Status.RUNNING] == 100
    assert Task.objects.filter(held_for=HeldFor.OPERATOR).count() == counts[Status.HELD] == 10_000
