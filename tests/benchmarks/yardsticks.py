"""
Measure what the database can do at best: a plain loop over its driver.

The loop executes the statements of a queue that wastes nothing, on the same table, indexes and
constraints. A claim returns what a worker needs, a finish is fenced by (id, token), and batches are
of a hundred. The loop does nothing else: it has one thread, and calls, checks and reports nothing.
"""

from __future__ import annotations

import time

from bgtask.models import Worker
from tests.benchmarks.harness import raw_connection

BATCH = 100
COLUMNS = (
    "id, task_name, task_params, queue, priority, token, attempts, crashes, max_attempts, "
    "max_run_time, cancel_requested"
)
CANDIDATES = f"""
    FROM bgtask_task WHERE status = 'READY' AND crashes = 0 AND queue = 'default'
    ORDER BY priority DESC, run_at, id LIMIT {BATCH}
"""
CLAIM = """
    UPDATE bgtask_task SET status = 'RUNNING', locked_by_id = {worker}, last_worker = 'plain',
        locked_at = {now}, deadline_at = {later}, token = token + 1, attempts = attempts + 1
"""
FINISH = """
    status = 'SUCCESSFUL', finished_at = {now}, started_at = COALESCE(t.started_at, {now}),
    duration_ms = 0, return_value = NULL, locked_by_id = NULL, locked_at = NULL, deadline_at = NULL
"""


def drain(vendor: str) -> float:
    """Empty the queue, and return how many seconds it took."""
    worker = Worker.register().pk
    connection = raw_connection()
    try:
        steps = {"postgresql": _postgresql, "sqlite": _sqlite, "mysql": _mariadb}
        started = time.monotonic()
        while steps[vendor](connection, worker):
            pass
        return time.monotonic() - started
    finally:
        connection.close()


def _postgresql(connection, worker: int) -> int:
    now = "statement_timestamp()"
    claim = CLAIM.format(worker=worker, now=now, later=f"{now} + interval '3600 s'")
    rows = connection.execute(
        f"{claim} WHERE id = ANY (ARRAY (SELECT id {CANDIDATES} FOR UPDATE SKIP LOCKED)) "
        f"RETURNING {COLUMNS}"
    ).fetchall()
    if rows:
        connection.execute(
            f"UPDATE bgtask_task AS t SET {FINISH.format(now=now)} "
            "FROM unnest(%s::bigint[], %s::bigint[]) AS o (id, token) "
            "WHERE t.id = o.id AND t.token = o.token AND t.status = 'RUNNING'",
            [[row[0] for row in rows], [row[5] for row in rows]],
        )
    return len(rows)


def _sqlite(connection, worker: int) -> int:
    now = "strftime('%Y-%m-%d %H:%M:%f', 'now')"
    later = "strftime('%Y-%m-%d %H:%M:%f', 'now', '+3600 seconds')"
    claim = CLAIM.format(worker=worker, now=now, later=later)
    rows = connection.execute(
        f"{claim} WHERE id IN (SELECT id {CANDIDATES}) RETURNING {COLUMNS}"
    ).fetchall()
    if rows:
        values = ", ".join(f"({row[0]}, {row[5]})" for row in rows)
        connection.execute(
            f"WITH o (id, token) AS (VALUES {values}) UPDATE bgtask_task AS t "
            f"SET {FINISH.format(now=now)} FROM o "
            "WHERE t.id = o.id AND t.token = o.token AND t.status = 'RUNNING'"
        )
    return len(rows)


def _mariadb(connection, worker: int) -> int:
    now = "UTC_TIMESTAMP(6)"
    claim = CLAIM.format(worker=worker, now=now, later=f"{now} + INTERVAL 3600 SECOND")
    cursor = connection.cursor()
    cursor.execute("BEGIN")
    cursor.execute(f"SELECT {COLUMNS} {CANDIDATES} FOR UPDATE SKIP LOCKED")
    rows = cursor.fetchall()
    if rows:
        ids = ", ".join(str(row[0]) for row in rows)
        cursor.execute(f"{claim} WHERE id IN ({ids}) AND status = 'READY'")
    cursor.execute("COMMIT")
    if rows:
        union = " UNION ALL ".join(f"SELECT {row[0]} AS id, {row[5] + 1} AS token" for row in rows)
        cursor.execute(
            f"UPDATE bgtask_task AS t JOIN ({union}) AS o ON t.id = o.id "
            f"SET {FINISH.format(now=now)} "
            "WHERE t.token = o.token AND t.status = 'RUNNING'"
        )
    return len(rows)
