"""SQLite: one writer at a time, so a single UPDATE is a claim nobody else can see half done."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask.dialects.base import MOST_HEADS, Dialect, Head, Outlook
from bgtask.dialects.references import Reference, sqlite_references
from bgtask.dialects.refusals import is_undecodable
from bgtask.dialects.statements import (
    CLAIMED,
    PRIORITY_MIN,
    compiled,
    constants,
    instances,
    marks,
    on_conflict,
    sorted_out,
)

if TYPE_CHECKING:
    from bgtask.models import Task, TaskQuerySet, Worker
    from bgtask.models.outcome import Outcome


class SQLite(Dialect):
    def __init__(self) -> None:
        self._decodes_itself = False  # Since a text that is not UTF-8 was met.

    def clock(self, connection: BaseDatabaseWrapper, seconds: str | None = None) -> str:
        modifiers = ["'now'"]
        if offset := self.offset(connection):
            modifiers.append(f"'{offset:+d} seconds'")
        if seconds is not None:
            modifiers.append(f"printf('%%+.3f seconds', {seconds})")
        # To the letter as Django writes a datetime, since SQLite compares times as texts: with six
        # decimals, or with none at a full second.
        clock = f"strftime('%%Y-%%m-%%d %%H:%%M:%%f000', {', '.join(modifiers)})"
        return f"replace({clock}, '.000000', '')"

    def seconds_since(self, connection: BaseDatabaseWrapper, column: str) -> str:
        return f"((julianday({self.clock(connection)}) - julianday({column})) * 86400.0)"

    def transaction(self, connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
        return _immediate(connection)

    def outlook(
        self,
        connection: BaseDatabaseWrapper,
        queues: Sequence[str] | None = None,
        after: str = "",
        limit: int = MOST_HEADS,
    ) -> Outlook:
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
            wanted = ", ".join(["(%s)"] * len(queues)) or "(NULL)"  # Which is no queue.
            source = f"WITH names (queue) AS (VALUES {wanted})"
        of_queue = """
            FROM bgtask_task AS t
            WHERE t.status = 'READY' AND t.crashes = 0 AND t.queue = names.queue
            ORDER BY t.priority DESC, t.run_at, t.id LIMIT 1
        """
        outlook = Outlook()
        with self._decoding(connection), connection.cursor() as cursor:
            cursor.execute(
                f"""
                {source}
                SELECT 'head', names.queue, h.priority, h.id,
                    (SELECT t.priority {of_queue} OFFSET 1)
                FROM names CROSS JOIN bgtask_task AS h WHERE h.id = (SELECT t.id {of_queue})
                UNION ALL {self.rest(connection, queues)}
                """,
                [after, limit] if queues is None else [*queues, *queues],
            )
            self.note(outlook, cursor.fetchall())
        is_cut = queues is None and len(outlook.heads) >= limit
        # No claim can name a queue that is no text.
        outlook.heads = [head for head in outlook.heads if isinstance(head.queue, str)]
        if is_cut and outlook.heads:
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
        # CROSS JOIN keeps the order of the two, so each task is found by its primary key.
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
        return self._claim(candidates, select, params, worker, max_run_time)

    def _claim(
        self,
        candidates: TaskQuerySet,
        select: str,
        params: Sequence[Any],
        worker: Worker,
        max_run_time: float,
    ) -> list[Task]:
        connection = connections[candidates.db]
        with self._decoding(connection), connection.cursor() as cursor:
            # run_at as the text that it is: a row of other hands may have fewer decimals than
            # Django writes, and a hint would pass over all that share them.
            cursor.execute(
                f"""
                UPDATE bgtask_task SET {self.claiming(connection)} WHERE id IN ({select})
                RETURNING {", ".join(CLAIMED)},
                    CASE typeof(run_at) WHEN 'blob' THEN '' ELSE CAST(run_at AS text) END,
                    {self.seconds_since(connection, "run_at")}
                """,
                [*self.claiming_params(worker, max_run_time), *params],
            )
            # To its end: a half-read cursor would keep the write lock.
            return instances(candidates, cursor.fetchall(), worker)

    @contextmanager
    def _decoding(self, connection: BaseDatabaseWrapper) -> Iterator[None]:
        """
        Read a text that is not UTF-8 as bytes, so that its neighbours can be read.

        Python's own decoding is quicker, and is used until it fails. The claim that fails may have
        been committed. The worker finds and releases what it claimed, as after any lost reply.
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

    def promote(self, candidates: TaskQuerySet) -> int:
        select, params = compiled(candidates, "id")
        with connections[candidates.db].cursor() as cursor:
            cursor.execute(
                f"UPDATE bgtask_task SET status = 'READY' WHERE id IN ({select})", params
            )
            return int(cursor.rowcount)

    def finish(
        self, connection: BaseDatabaseWrapper, outcomes: Sequence[Outcome]
    ) -> dict[int, str]:
        same, different = sorted_out([self.outcome_row(connection, one) for one in outcomes])
        rows = ", ".join([f"({marks(different)})"] * len(outcomes))
        with connection.cursor() as cursor:
            # The CASE, of something in o, keeps SQLite from putting a Bloom filter in front of the
            # primary key: to build it, it would read the whole table for each batch.
            cursor.execute(
                f"""
                WITH v ({", ".join(different)}) AS (VALUES {rows}),
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
        # In the words of Django's check_constraints(). SQLite itself names no table.
        found = re.match(r"The row in table '([^']+)'", str(error))
        return found[1] if found else ""

    def check_now(self, connection: BaseDatabaseWrapper, references: Iterable[Reference]) -> None:
        if tables := sorted({reference.table for reference in references}):
            connection.check_constraints(table_names=tables)

    def add_stats(self, connection: BaseDatabaseWrapper, rows: Sequence[Sequence[Any]]) -> None:
        self._upsert(connection, rows, on_conflict("max"))


def _text_or_bytes(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


@contextmanager
def _immediate(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """
    A transaction that begins as a writer.

    A deferred one that reads first is refused at its first write when somebody else has written
    meanwhile, at once and whatever the timeout.
    """
    connection.ensure_connection()  # To connect is what sets the mode.
    mode = connection.transaction_mode  # type: ignore[attr-defined]
    connection.transaction_mode = "IMMEDIATE"  # type: ignore[attr-defined]
    try:
        with transaction.atomic(using=connection.alias):
            yield
    finally:
        connection.transaction_mode = mode  # type: ignore[attr-defined]
