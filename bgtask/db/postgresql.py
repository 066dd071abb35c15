"""
PostgreSQL: each operation is one statement.

The module is long because the statements of all operations stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.db import IntegrityError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import QuerySet

from bgtask.db.operations import (
    IF_FREE,
    MAX_HEADS,
    REPLACED,
    STORED,
    Claimant,
    Head,
    QueueOperations,
    QueueSnapshot,
    Replacement,
    Rows,
    Server,
)
from bgtask.db.references import Reference, check_on_postgresql, postgresql_references
from bgtask.db.sql import CLAIMED, compiled, on_conflict, sorted_out

# The channel on which sleeping runners listen. The payload is the queue.
CHANNEL = "bgtask"

# The name of the current WAL file begins with the timeline. pg_control_checkpoint() would still
# give the old timeline after a promotion. On a standby, pg_current_wal_lsn() raises an error.
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
    ("status", "return_value", "last_error", "error_message", "error_class", "error_fingerprint"),
    "text",
)


class PostgreSQL(QueueOperations):
    def server(self, connection: BaseDatabaseWrapper) -> Server | None:
        with connection.cursor() as cursor:
            cursor.execute(SERVER)
            (row,) = cursor.fetchall()
        is_standby, cluster, timeline = row
        return Server(True) if is_standby else Server(False, cluster, int(timeline, 16))

    def clock(self, connection: BaseDatabaseWrapper, seconds: str | None = None) -> str:
        # now() is the start of the transaction, and clock_timestamp() differs from row to row.
        now = "statement_timestamp()"
        return now if seconds is None else f"({now} + make_interval(secs => ({seconds})::float8))"

    def seconds_since(self, connection: BaseDatabaseWrapper, column: str) -> str:
        # PostgreSQL < 17 can't subtract an infinite timestamp, and the statement would fail.
        finite = f"NULLIF(NULLIF({column}, '-infinity'), 'infinity')"
        return f"extract(epoch FROM statement_timestamp() - {finite})::float8"

    def insert(
        self,
        connection: BaseDatabaseWrapper,
        columns: Sequence[str],
        values: Sequence[str],
        params: Sequence[Any],
        on_conflict: str = "",
    ) -> Any:
        statement = f"INSERT INTO bgtask_task ({', '.join(columns)}) VALUES ({', '.join(values)})"
        return self._store(connection, f"{statement} {on_conflict}", params)

    def _store(
        self, connection: BaseDatabaseWrapper, statement: str, params: Sequence[Any]
    ) -> Sequence[Any] | None:
        """Insert or update one task and notify its queue. Return its STORED columns, or None."""
        columns = ", ".join(STORED)
        with connection.cursor() as cursor:
            cursor.execute(
                f"""
                WITH task AS ({statement} RETURNING {columns}, queue)
                SELECT {columns}, pg_notify('{CHANNEL}', queue) FROM task
                """,
                params,
            )
            rows = cursor.fetchall()
        return rows[0][: len(STORED)] if rows else None

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

    def insert_many_if_free(
        self,
        connection: BaseDatabaseWrapper,
        columns: Sequence[str],
        values: Sequence[str],
        params: Sequence[Any],
        keyed: Sequence[tuple[str, str]],
    ) -> set[str]:
        with connection.cursor() as cursor:
            cursor.execute(
                f"""
                INSERT INTO bgtask_task (task_params, unique_name, unique_key, {", ".join(columns)})
                SELECT text, key, key, {", ".join(values)}
                FROM unnest(%s::text[], %s::text[]) AS keyed (text, key)
                {IF_FREE} RETURNING unique_key
                """,
                [*params, [text for text, _ in keyed], [key for _, key in keyed]],
            )
            return {key for (key,) in cursor.fetchall()}

    def replace_waiting(
        self, connection: BaseDatabaseWrapper, replacement: Replacement
    ) -> Sequence[Any] | None:
        assignments, params = self.replacing(connection, replacement)
        return self._store(
            connection,
            f"UPDATE bgtask_task SET {assignments} WHERE {REPLACED}",
            [*params, replacement.key, replacement.columns["task_name"]],
        )

    def wake(self, connection: BaseDatabaseWrapper, queue: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, queue])

    def snapshot(
        self,
        connection: BaseDatabaseWrapper,
        queues: Sequence[str] | None = None,
        after: str = "",
        limit: int = MAX_HEADS,
    ) -> QueueSnapshot:
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
        snapshot = QueueSnapshot()
        with connection.cursor() as cursor:
            cursor.execute(
                f"({heads}) UNION ALL {self.control_state_sql(connection, queues)}",
                [after, limit] if queues is None else [list(queues), *queues],
            )
            self.add_rows(snapshot, cursor.fetchall())
        if queues is None and len(snapshot.heads) >= limit:
            snapshot.last = snapshot.heads[-1].queue
        return snapshot

    def claim(self, candidates: QuerySet[Any], claimant: Claimant) -> Rows:
        select, params = compiled(candidates, "id")
        return self._claim(connections[candidates.db], select, params, claimant)

    def claim_heads(
        self,
        connection: BaseDatabaseWrapper,
        heads: Sequence[Head],
        limit: int,
        claimant: Claimant,
    ) -> Rows:
        # Make PostgreSQL use the primary key, whatever the statistics say. So the status and the
        # queue are compared as expressions that the claim index does not match.
        select = """
            SELECT id FROM bgtask_task
            WHERE id = ANY (%s::bigint[]) AND status || '' = 'READY' AND crashes = 0
              AND queue || '' = ANY (%s::text[]) AND priority >= %s
            ORDER BY array_position(%s::bigint[], id) LIMIT %s
        """
        ids = _array([head.id for head in heads])
        queues, lowest = [head.queue for head in heads], heads[-1].priority
        params = [ids, queues, lowest, ids, limit]
        return self._claim(connection, select, params, claimant)

    def claim_notified(
        self,
        connection: BaseDatabaseWrapper,
        queue: str,
        limit: int,
        claimant: Claimant,
    ) -> Rows:
        # The statement itself checks pauses and holds, since a query before it would take as long
        # again. The SQL is written by hand, since the ORM would take a tenth of the time from the
        # enqueue to the start. The outer UPDATE excludes paused queues and names on hold. In the
        # SELECT, these conditions would make the planner expect few rows and sort all ready tasks.
        select = """
            SELECT id FROM bgtask_task WHERE status = 'READY' AND crashes = 0 AND queue = %s
            ORDER BY priority DESC, run_at, id LIMIT %s
        """
        now = self.clock(connection)
        unless = f"""
            AND queue <> ALL (ARRAY (
                SELECT queue FROM bgtask_queuepause
                WHERE expires_at IS NULL OR expires_at > {now}))
            AND task_name <> ALL (ARRAY (
                SELECT task_name FROM bgtask_taskhold
                WHERE expires_at IS NULL OR expires_at > {now}))
        """
        return self._claim(connection, select, [queue, limit], claimant, unless)

    def _claim(
        self,
        connection: BaseDatabaseWrapper,
        select: str,
        params: Sequence[Any],
        claimant: Claimant,
        unless: str = "",
    ) -> Rows:
        with connection.cursor() as cursor:
            # psycopg would make a UUID of each result_id in Python.
            # ARRAY (…) runs its query once. With IN (…) the planner may run it again for each
            # row, and so claim more tasks than its LIMIT.
            cursor.execute(
                f"""
                UPDATE bgtask_task SET {self.claiming(connection)}
                WHERE id = ANY (ARRAY ({select} FOR UPDATE SKIP LOCKED)) {unless}
                RETURNING {", ".join(CLAIMED)}, result_id::text,
                          enqueued_at::text, started_at::text, locked_at::text, run_at::text,
                          {self.seconds_since(connection, "run_at")}
                """,
                [*self.claiming_params(claimant), *params],
            )
            return list(cursor.fetchall())

    def promote(self, candidates: QuerySet[Any]) -> int:
        select, params = compiled(candidates, "id")
        with connections[candidates.db].cursor() as cursor:
            cursor.execute(
                "UPDATE bgtask_task SET status = 'READY' "
                f"WHERE id = ANY (ARRAY ({select} FOR UPDATE SKIP LOCKED))",
                params,
            )
            return int(cursor.rowcount)

    def finish(self, connection: BaseDatabaseWrapper, rows: Rows) -> dict[int, str]:
        source, params = _relation(rows)
        with connection.cursor() as cursor:
            # Make PostgreSQL use the primary key, whatever the statistics say. They nearly always
            # say that nothing is running. PostgreSQL would then read, for each batch, all tasks
            # that run anywhere, or did since its oldest snapshot. Hence ARRAY (…), and an
            # expression on the status that no partial index matches.
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
        diagnostics = getattr(error.__cause__, "diag", None)
        return getattr(diagnostics, "table_name", None) or ""

    def check_now(self, connection: BaseDatabaseWrapper, references: Iterable[Reference]) -> None:
        check_on_postgresql(connection, references)

    def add_stats(self, connection: BaseDatabaseWrapper, rows: Sequence[Sequence[Any]]) -> None:
        self._upsert(connection, rows, on_conflict("GREATEST"))


def _relation(rows: Sequence[Sequence[Any]]) -> tuple[str, list[Any]]:
    """
    Return SQL for the outcomes as a relation, and its parameters.

    Columns that differ are arrays. Columns with one value for all rows are constants. Numbers are
    sent as the text of an array, which costs a fraction of the driver's own lists.
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
