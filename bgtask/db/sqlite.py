"""SQLite: there is one writer at a time, so a single UPDATE is an atomic claim."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any

from django.db import IntegrityError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import QuerySet

from bgtask.db.internals import immediate_transaction
from bgtask.db.operations import MAX_HEADS, Claimant, Head, QueueOperations, QueueSnapshot, Rows
from bgtask.db.references import Reference, sqlite_references
from bgtask.db.refusals import is_undecodable
from bgtask.db.sql import (
    CLAIMED,
    PRIORITY_MIN,
    compiled,
    constants,
    marks,
    on_conflict,
    sorted_out,
)

# The order of UNCONVERTED, after the id of the result, and then of ORDER.
TIMES = ("enqueued_at", "started_at", "locked_at", "run_at")


class SQLite(QueueOperations):
    least = "min"

    def __init__(self) -> None:
        self._decodes_itself = False  # True once SQLite has returned a text that is not UTF-8.

    def clock(self, connection: BaseDatabaseWrapper, seconds: str | None = None) -> str:
        modifiers = ["'now'"]
        if offset := self.offset(connection):
            modifiers.append(f"'{offset:+d} seconds'")
        if seconds is not None:
            modifiers.append(f"printf('%%+.3f seconds', {seconds})")
        # Write the time exactly as Django writes a datetime, since SQLite compares times as texts.
        # Django writes six decimals, or none at a full second.
        clock = f"strftime('%%Y-%%m-%%d %%H:%%M:%%f000', {', '.join(modifiers)})"
        return f"replace({clock}, '.000000', '')"

    def seconds_since(self, connection: BaseDatabaseWrapper, column: str) -> str:
        return f"((julianday({self.clock(connection)}) - julianday({column})) * 86400.0)"

    def transaction(self, connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
        return immediate_transaction(connection)

    def snapshot(
        self,
        connection: BaseDatabaseWrapper,
        queues: Sequence[str] | None = None,
        after: str = "",
        limit: int = MAX_HEADS,
    ) -> QueueSnapshot:
        ready = "FROM bgtask_task WHERE status = 'READY' AND crashes = 0 AND queue"
        if queues is None:
            source = f"""
                WITH RECURSIVE names (queue) AS (
                    SELECT min(queue) {ready} > %s
                    UNION ALL
                    SELECT (SELECT min(t.queue) FROM bgtask_task AS t WHERE t.status = 'READY'
                            AND t.crashes = 0 AND t.queue > names.queue)
                    FROM names WHERE names.queue IS NOT NULL LIMIT %s
                )
            """
        else:
            wanted = ", ".join(["(%s)"] * len(queues)) or "(NULL)"  # NULL matches no queue.
            source = f"WITH names (queue) AS (VALUES {wanted})"
        of_queue = """
            FROM bgtask_task AS t
            WHERE t.status = 'READY' AND t.crashes = 0 AND t.queue = names.queue
            ORDER BY t.priority DESC, t.run_at, t.id LIMIT 1
        """
        snapshot = QueueSnapshot()
        with self._decoding(connection), connection.cursor() as cursor:
            cursor.execute(
                f"""
                {source}
                SELECT 'head', names.queue, h.priority, h.id,
                    (SELECT t.priority {of_queue} OFFSET 1)
                FROM names CROSS JOIN bgtask_task AS h WHERE h.id = (SELECT t.id {of_queue})
                UNION ALL {self.control_state_sql(connection, queues)}
                """,
                [after, limit] if queues is None else [*queues, *queues],
            )
            self.add_rows(snapshot, cursor.fetchall())
        is_cut = queues is None and len(snapshot.heads) >= limit
        # A claim can't name a queue that is no text.
        snapshot.heads = [head for head in snapshot.heads if isinstance(head.queue, str)]
        if is_cut and snapshot.heads:
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
        # CROSS JOIN makes SQLite read h first, so that it finds each task by its primary key.
        select = f"""
            SELECT t.id FROM (
                SELECT column1 AS place, column2 AS id
                FROM (VALUES {", ".join(["(%s, %s)"] * len(heads))})
            ) AS h CROSS JOIN bgtask_task AS t
            WHERE t.id = h.id AND +t.status = 'READY' AND t.crashes = 0
              AND +t.queue IN ({marks(heads)}) AND t.priority >= %s
            ORDER BY h.place LIMIT %s
        """
        places = [value for place, head in enumerate(heads) for value in (place, head.id)]
        queues, lowest = [head.queue for head in heads], float(heads[-1].priority)
        if lowest <= PRIORITY_MIN:
            lowest = -math.inf  # A row edited by hand may hold less.
        params = [*places, *queues, lowest, limit]
        return self._claim(connection, select, params, claimant)

    def _claim(
        self,
        connection: BaseDatabaseWrapper,
        select: str,
        params: Sequence[Any],
        claimant: Claimant,
    ) -> Rows:
        with self._decoding(connection), connection.cursor() as cursor:
            # Return times as the stored texts. A row that another program wrote may have fewer
            # decimals than Django writes. A claim key with Django's decimals would be greater, and
            # the next claim would skip all tasks with that text.
            cursor.execute(
                f"""
                UPDATE bgtask_task SET {self.claiming(connection)} WHERE id IN ({select})
                RETURNING {", ".join(CLAIMED)}, CAST(result_id AS text),
                    {", ".join(map(_stored_text, TIMES))},
                    {self.seconds_since(connection, "run_at")}
                """,
                [*self.claiming_params(claimant), *params],
            )
            # Read all rows, since a half-read cursor would keep the write lock.
            return list(cursor.fetchall())

    @contextmanager
    def _decoding(self, connection: BaseDatabaseWrapper) -> Iterator[None]:
        """
        Read a text that is not UTF-8 as bytes, so that the other rows can be read.

        Python's own decoding is quicker, and is used until it fails. The claim that fails may have
        been committed. The worker finds and releases its tasks, as after any lost reply.
        """
        connection.ensure_connection()
        raw = connection.connection
        before = raw.text_factory
        if self._decodes_itself:
            raw.text_factory = _text_or_bytes
        try:
            yield
        except OperationalError as error:
            self._decodes_itself |= is_undecodable(error)
            raise
        finally:
            raw.text_factory = before

    def promote(self, candidates: QuerySet[Any]) -> int:
        select, params = compiled(candidates, "id")
        with connections[candidates.db].cursor() as cursor:
            cursor.execute(
                f"UPDATE bgtask_task SET status = 'READY' WHERE id IN ({select})", params
            )
            return int(cursor.rowcount)

    def finish(self, connection: BaseDatabaseWrapper, rows: Rows) -> dict[int, str]:
        same, different = sorted_out(rows)
        values = ", ".join([f"({marks(different)})"] * len(rows))
        with connection.cursor() as cursor:
            # The CASE refers to a column of o. This keeps SQLite from putting a Bloom filter in
            # front of the primary key. To build the filter, SQLite would read the whole table for
            # each batch.
            cursor.execute(
                f"""
                WITH v ({", ".join(different)}) AS (VALUES {values}),
                     o AS (SELECT v.*{constants(same)} FROM v)
                UPDATE bgtask_task AS t SET {self.finishing(connection)}
                FROM o WHERE t.id = o.id AND t.token = o.token
                    AND t.status = CASE WHEN o.id THEN 'RUNNING' END
                RETURNING id, status
                """,
                [
                    *chain.from_iterable(zip(*different.values(), strict=True)),
                    *same.values(),
                ],
            )
            return dict(cursor.fetchall())

    def references(self, connection: BaseDatabaseWrapper, table: str) -> list[Reference]:
        return sqlite_references(connection, table)

    def refusing_table(self, error: IntegrityError) -> str:
        # Parse the message of Django's check_constraints(). SQLite itself names no table.
        found = re.match(r"The row in table '([^']+)'", str(error))
        return found[1] if found else ""

    def check_now(self, connection: BaseDatabaseWrapper, references: Iterable[Reference]) -> None:
        if tables := sorted({reference.table for reference in references}):
            connection.check_constraints(table_names=tables)

    def add_stats(self, connection: BaseDatabaseWrapper, rows: Sequence[Sequence[Any]]) -> None:
        self._upsert(connection, rows, on_conflict("max"))


def _stored_text(column: str) -> str:
    return f"CASE typeof({column}) WHEN 'blob' THEN '' ELSE CAST({column} AS text) END"


def _text_or_bytes(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
