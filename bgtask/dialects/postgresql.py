"""PostgreSQL: everything in one statement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask.dialects.base import MOST_HEADS, Dialect, Head, Outlook, Server
from bgtask.dialects.references import Reference, check_on_postgresql, postgresql_references
from bgtask.dialects.statements import CLAIMED, compiled, instances, on_conflict, sorted_out

if TYPE_CHECKING:
    from bgtask.models import Task, TaskQuerySet, Worker
    from bgtask.models.outcome import Outcome

# Sleeping runners listen here; the payload is the queue.
CHANNEL = "bgtask"

# The name of the current WAL file begins with the timeline. pg_control_checkpoint() would still
# give the old one after a promotion. On a standby, pg_current_wal_lsn() raises an error.
SERVER = """
    SELECT standby,
           CASE WHEN NOT standby THEN (SELECT system_identifier FROM pg_control_system()) END,
           CASE WHEN NOT standby THEN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END
    FROM (SELECT pg_is_in_recovery() AS standby OFFSET 0) AS server
"""

OUTCOME_TYPES = {
    "id": "bigint",
    "token": "bigint",
    "age": "float8",
    "duration": "float8",
    "duration_ms": "bigint",
    "delay": "float8",
    "run_at": "timestamptz",
} | dict.fromkeys(
    ("status", "return_value", "last_error", "error_class", "error_fingerprint"), "text"
)


class PostgreSQL(Dialect):
    def server(self, connection: BaseDatabaseWrapper) -> Server | None:
        with connection.cursor() as cursor:
            cursor.execute(SERVER)
            (row,) = cursor.fetchall()
        is_standby, cluster, timeline = row
        return Server(True) if is_standby else Server(False, cluster, int(timeline, 16))

    def clock(self, connection: BaseDatabaseWrapper, seconds: str | None = None) -> str:
        # now() would be the start of the transaction, clock_timestamp() differ from row to row.
        now = "statement_timestamp()"
        return now if seconds is None else f"({now} + make_interval(secs => ({seconds})::float8))"

    def seconds_since(self, connection: BaseDatabaseWrapper, column: str) -> str:
        # PostgreSQL < 17 can't subtract an infinite timestamp: the whole statement would fail.
        finite = f"NULLIF(NULLIF({column}, '-infinity'), 'infinity')"
        return f"extract(epoch FROM statement_timestamp() - {finite})::float8"

    def insert(
        self,
        connection: BaseDatabaseWrapper,
        columns: Sequence[str],
        values: Sequence[str],
        params: Sequence[Any],
    ) -> Sequence[Any]:
        with connection.cursor() as cursor:
            cursor.execute(
                f"""
                WITH task AS (
                    INSERT INTO bgtask_task ({", ".join(columns)}) VALUES ({", ".join(values)})
                    RETURNING id, status, run_at, enqueued_at, queue
                )
                SELECT id, status, run_at, enqueued_at, pg_notify('{CHANNEL}', queue) FROM task
                """,
                params,
            )
            (row,) = cursor.fetchall()
        return row[:4]  # type: ignore[no-any-return]

    def insert_many(
        self,
        connection: BaseDatabaseWrapper,
        columns: Sequence[str],
        values: Sequence[str],
        params: Sequence[Any],
        texts: Sequence[str],
    ) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                f"""
                INSERT INTO bgtask_task (task_params, {", ".join(columns)})
                SELECT text, {", ".join(values)} FROM unnest(%s::text[]) AS text
                """,
                [*params, list(texts)],
            )

    def wake(self, connection: BaseDatabaseWrapper, queue: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, queue])

    def outlook(
        self,
        connection: BaseDatabaseWrapper,
        queues: Sequence[str] | None = None,
        after: str = "",
        limit: int = MOST_HEADS,
    ) -> Outlook:
        ready = "bgtask_task WHERE status = 'READY' AND crashes = 0 AND queue"
        order = "ORDER BY queue, priority DESC, run_at, id LIMIT 1"
        first = "SELECT queue, priority, id FROM"
        second = f"(SELECT priority FROM {ready} = n.queue {order} OFFSET 1)"
        columns = f"'head', n.queue, n.priority::float8, n.id, {second}"
        if queues is None:
            heads = f"""
                WITH RECURSIVE heads AS (
                    ({first} {ready} > %s {order})
                    UNION ALL
                    SELECT n.* FROM heads, LATERAL ({first} {ready} > heads.queue {order}) AS n
                ) SELECT {columns} FROM (SELECT * FROM heads LIMIT %s) AS n
            """
        else:
            heads = f"""
                SELECT {columns}
                FROM unnest(%s::text[]) AS wanted, LATERAL ({first} {ready} = wanted {order}) AS n
            """
        outlook = Outlook()
        with connection.cursor() as cursor:
            cursor.execute(
                f"({heads}) UNION ALL {self.rest(connection, queues)}",
                [after, limit] if queues is None else [list(queues), *queues],
            )
            self.note(outlook, cursor.fetchall())
        if queues is None and len(outlook.heads) >= limit:
            outlook.last = outlook.heads[-1].queue
        return outlook

    def claim(self, candidates: TaskQuerySet, worker: Worker, max_run_time: float) -> list[Task]:
        select, params = compiled(candidates, "id")
        return self._claim(candidates, select, params, worker, max_run_time)

    def claim_heads(
        self,
        candidates: TaskQuerySet,
        heads: Sequence[Head],
        limit: int,
        worker: Worker,
        max_run_time: float,
    ) -> list[Task]:
        # By primary key, whatever the statistics say. So the status and the queue are compared in
        # a form that the index of claims does not answer.
        select = """
            SELECT id FROM bgtask_task
            WHERE id = ANY (%s::bigint[]) AND status || '' = 'READY' AND crashes = 0
              AND queue || '' = ANY (%s::text[]) AND priority >= %s
            ORDER BY array_position(%s::bigint[], id) LIMIT %s
        """
        ids = _array([head.id for head in heads])
        queues, lowest = [head.queue for head in heads], heads[-1].priority
        params = [ids, queues, lowest, ids, limit]
        return self._claim(candidates, select, params, worker, max_run_time)

    def claim_news(
        self,
        candidates: TaskQuerySet,
        worker: Worker,
        queue: str,
        limit: int,
        max_run_time: float,
    ) -> list[Task]:
        # It sees for itself what is paused and on hold: to look first would take as long again.
        # Nor by way of the ORM, which is a tenth of the time from the enqueue to the start. What
        # must not be started is left out last, or the planner would hold the rest to be few, and
        # sort all that is ready.
        select = """
            SELECT id FROM bgtask_task WHERE status = 'READY' AND crashes = 0 AND queue = %s
            ORDER BY priority DESC, run_at, id LIMIT %s
        """
        now = self.clock(connections[candidates.db])
        unless = f"""
            AND queue <> ALL (ARRAY (
                SELECT queue FROM bgtask_queuepause
                WHERE expires_at IS NULL OR expires_at > {now}))
            AND task_name <> ALL (ARRAY (
                SELECT task_name FROM bgtask_taskhold
                WHERE expires_at IS NULL OR expires_at > {now}))
        """
        return self._claim(candidates, select, [queue, limit], worker, max_run_time, unless)

    def _claim(
        self,
        candidates: TaskQuerySet,
        select: str,
        params: Sequence[Any],
        worker: Worker,
        max_run_time: float,
        unless: str = "",
    ) -> list[Task]:
        connection = connections[candidates.db]
        with connection.cursor() as cursor:
            # ARRAY (…) runs its query once. With IN (…) the planner may run it again for each
            # row, and so claim more tasks than its LIMIT.
            cursor.execute(
                f"""
                UPDATE bgtask_task SET {self.claiming(connection)}
                WHERE id = ANY (ARRAY ({select} FOR UPDATE SKIP LOCKED)) {unless}
                RETURNING {", ".join(CLAIMED)}, run_at::text,
                          {self.seconds_since(connection, "run_at")}
                """,
                [*self.claiming_params(worker, max_run_time), *params],
            )
            return instances(candidates, cursor.fetchall(), worker)

    def promote(self, candidates: TaskQuerySet) -> int:
        select, params = compiled(candidates, "id")
        with connections[candidates.db].cursor() as cursor:
            cursor.execute(
                "UPDATE bgtask_task SET status = 'READY' "
                f"WHERE id = ANY (ARRAY ({select} FOR UPDATE SKIP LOCKED))",
                params,
            )
            return int(cursor.rowcount)

    def finish(
        self, connection: BaseDatabaseWrapper, outcomes: Sequence[Outcome]
    ) -> dict[int, str]:
        source, params = _relation([self.outcome_row(connection, outcome) for outcome in outcomes])
        with connection.cursor() as cursor:
            # By primary key, whatever the statistics say: they nearly always say that nothing is
            # running, and all that runs anywhere, or did since the oldest snapshot, would be read
            # for each batch. Hence ARRAY (…), and the status in a form no partial index answers to.
            cursor.execute(
                f"""
                WITH o AS ({source})
                UPDATE bgtask_task AS t SET {self.finishing(connection)} FROM o
                WHERE t.id = ANY (ARRAY (SELECT id FROM o))
                  AND t.id = o.id AND t.token = o.token AND t.status || '' = 'RUNNING'
                RETURNING t.id, t.status
                """,
                params,
            )
            return dict(cursor.fetchall())

    def references(self, connection: BaseDatabaseWrapper, table: str) -> list[Reference]:
        return postgresql_references(connection, table)

    def refusing_table(self, error: IntegrityError) -> str:
        told = getattr(error.__cause__, "diag", None)
        return getattr(told, "table_name", None) or ""

    def check_now(self, connection: BaseDatabaseWrapper, references: Iterable[Reference]) -> None:
        check_on_postgresql(connection, references)

    def add_stats(self, connection: BaseDatabaseWrapper, rows: Sequence[Sequence[Any]]) -> None:
        self._upsert(connection, rows, on_conflict("GREATEST"))


def _relation(rows: Sequence[Sequence[Any]]) -> tuple[str, list[Any]]:
    """
    Outcomes as a relation: what differs as arrays, what is the same for all as constants.

    Numbers travel as the text of an array, which costs a fraction of what the driver's own lists
    do.
    """
    same, different = sorted_out(rows)
    constants = "".join(f", %s::{OUTCOME_TYPES[name]} AS {name}" for name in same)
    arrays = ", ".join(f"%s::{OUTCOME_TYPES[name]}[]" for name in different)
    return (
        f"SELECT v.*{constants} FROM unnest({arrays}) AS v ({', '.join(different)})",
        [
            *same.values(),
            *(
                _array(values) if OUTCOME_TYPES[name] in ("bigint", "float8") else list(values)
                for name, values in different.items()
            ),
        ],
    )


def _array(numbers: Sequence[float | None]) -> str:
    return "{" + ",".join("NULL" if n is None else str(n) for n in numbers) + "}"
