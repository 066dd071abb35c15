"""
MariaDB and MySQL: without UPDATE … RETURNING, a claim locks, reads and then writes its rows.

The module is long because nearly every operation takes several statements here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from django.db import IntegrityError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import CharField, Func, QuerySet

from bgtask.db.deadlocks import again_after_deadlock
from bgtask.db.functions import SecondsSince
from bgtask.db.operations import (
    MAX_HEADS,
    REPLACED,
    STORED,
    Claimant,
    Head,
    QueueOperations,
    QueueSnapshot,
    Replacement,
    Rows,
)
from bgtask.db.references import Reference
from bgtask.db.refusals import is_duplicate
from bgtask.db.sql import (
    CLAIMED,
    COUNT_MAX,
    ORDER,
    STATS_PEAKS,
    STATS_SUMS,
    TOKEN_CEILING,
    compiled,
    constants,
    marks,
    sorted_out,
)

# If the statistics say that a status is rare, MariaDB would choose an index on the status. The
# statement would then also read rows that other transactions have locked, and wait for them.
BY_ID = "FORCE INDEX (PRIMARY)"

# The order of UNCONVERTED, after the id of the result. The driver converts a date in Python, which
# takes longer than all other columns, and few tasks need these.
TIMES = ("enqueued_at", "started_at", "locked_at")

HEAD = "SELECT queue, priority, id FROM bgtask_task WHERE status = 'READY' AND crashes = 0"
MAX_STEPS = 250  # Highest number of statements for one snapshot.
FIRST_STEPS = 10  # Each of the first steps reads two tasks, which suits few queues.
# Tasks that a later step reads: more if the step before found the heads of several queues.
STEP_TASKS, MAX_STEP_TASKS = 100, 500
PROBES = 100  # Named queues that one statement reads.
# The part of max_allowed_packet that is kept for the SQL text and the small values.
RESERVED_BYTES = 8 * 2**10
ESCAPED = ("\\", "'", '"', "\n", "\r", "\0", "\x1a")  # Each is sent as two characters.
REFUSED = re.compile(
    r"\(`(?P<schema>[^`]+)`\.`(?P<table>[^`]+)`, CONSTRAINT `(?P<constraint>[^`]+)` "
    r"FOREIGN KEY \(`(?P<column>[^`]+)`\) "
    r"REFERENCES (?:`[^`]+`\.)?`(?P<target_table>[^`]+)` \(`(?P<target_column>[^`]+)`\)"
)


Stored = TypeVar("Stored")


class _AsText(Func):
    template = "CAST(%(expressions)s AS CHAR)"
    output_field = CharField()


class MariaDB(QueueOperations):
    def __init__(self) -> None:
        # Keyed by the driver's connection, so that the limit is read again after a reconnect.
        self._packet_bytes: WeakKeyDictionary[Any, int] = WeakKeyDictionary()

    def statement_bytes(self, connection: BaseDatabaseWrapper) -> int:
        packet = self._max_allowed_packet(connection)
        return min(super().statement_bytes(connection), max(packet - RESERVED_BYTES, packet // 2))

    def limit_in_words(self, connection: BaseDatabaseWrapper) -> str:
        return f"max_allowed_packet, which is {self._max_allowed_packet(connection):,} bytes"

    def _max_allowed_packet(self, connection: BaseDatabaseWrapper) -> int:
        connection.ensure_connection()
        raw = connection.connection
        if raw not in self._packet_bytes:
            with connection.cursor() as cursor:
                cursor.execute("SELECT @@max_allowed_packet")
                self._packet_bytes[raw] = int(cursor.fetchone()[0])
        return self._packet_bytes[raw]

    def sent_bytes(self, text: str) -> int:
        return super().sent_bytes(text) + sum(map(text.count, ESCAPED))

    def insert_if_free(
        self,
        connection: BaseDatabaseWrapper,
        columns: Sequence[str],
        values: Sequence[str],
        params: Sequence[Any],
        key: str,
    ) -> Sequence[Any] | None:
        # Look first, without a lock. An INSERT that meets its key locks the index entry until the
        # caller's transaction ends, and the worker that runs that task wants to change the entry.
        if self._taken(connection, [key]):
            return None
        return self._unless_taken(
            connection, lambda: self.insert(connection, columns, values, params)
        )

    def insert_many_if_free(
        self,
        connection: BaseDatabaseWrapper,
        columns: Sequence[str],
        values: Sequence[str],
        params: Sequence[Any],
        keyed: Sequence[tuple[str, str]],
    ) -> set[str]:
        taken = self._taken(connection, [key for _, key in keyed])
        free = [(text, key) for text, key in keyed if key not in taken]
        if not free:
            return set()
        row = f"(%s, %s, %s, {', '.join(values)})"
        statement = (
            f"INSERT INTO bgtask_task (task_params, unique_name, unique_key, {', '.join(columns)}) "
            f"VALUES {', '.join([row] * len(free))}"
        )

        def insert() -> set[str]:
            with connection.cursor() as cursor:
                cursor.execute(
                    statement, [param for text, key in free for param in (text, key, key, *params)]
                )
            return {key for _, key in free}

        stored = self._unless_taken(connection, insert)
        if stored is not None:
            return stored
        # Another transaction has taken one of the keys since the look, so insert row by row.
        return {
            key
            for text, key in free
            if self.insert_with_key(connection, columns, values, params, text, key)
        }

    def _taken(self, connection: BaseDatabaseWrapper, keys: Sequence[str]) -> set[str]:
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT unique_key FROM bgtask_task WHERE unique_key IN ({marks(keys)})", keys
            )
            return {key for (key,) in cursor.fetchall()}

    def _unless_taken(
        self, connection: BaseDatabaseWrapper, insert: Callable[[], Stored]
    ) -> Stored | None:
        """Return what ``insert`` returns, or None if a row with one of its keys was there."""
        try:
            return again_after_deadlock(connection, insert)
        except IntegrityError as error:
            if not is_duplicate(error):
                raise
            return None

    def replace_waiting(
        self, connection: BaseDatabaseWrapper, replacement: Replacement
    ) -> Sequence[Any] | None:
        # Lock the row by its primary key, as workers do. A lock by the unique key would be taken
        # in the opposite order, and the two could deadlock.
        named = [replacement.key, replacement.columns["task_name"]]
        assignments, params = self.replacing(connection, replacement)
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT id FROM bgtask_task WHERE {REPLACED}", named)
            found = cursor.fetchone()
            if found is None:
                return None
            cursor.execute(
                f"UPDATE bgtask_task {BY_ID} SET {assignments} WHERE id = %s AND {REPLACED}",
                [*params, *found, *named],
            )
            if not cursor.rowcount:
                return None
            cursor.execute(f"SELECT {', '.join(STORED)} FROM bgtask_task WHERE id = %s", found)
            return cursor.fetchone()  # type: ignore[no-any-return]

    def clock(self, connection: BaseDatabaseWrapper, seconds: str | None = None) -> str:
        offset = self.offset(connection)
        now = "UTC_TIMESTAMP(6)"
        if offset:
            now = f"({now} + INTERVAL {offset} SECOND)"
        if seconds is not None:
            now = f"({now} + INTERVAL ROUND(({seconds}) * 1000000) MICROSECOND)"
        return now

    def seconds_since(self, connection: BaseDatabaseWrapper, column: str) -> str:
        return f"(TIMESTAMPDIFF(MICROSECOND, {column}, {self.clock(connection)}) / 1000000)"

    def snapshot(
        self,
        connection: BaseDatabaseWrapper,
        queues: Sequence[str] | None = None,
        after: str = "",
        limit: int = MAX_HEADS,
    ) -> QueueSnapshot:
        snapshot = QueueSnapshot()
        with connection.cursor() as cursor:
            if queues is None:
                self._step(cursor, snapshot, after, limit)
            else:
                self._probe(cursor, snapshot, queues)
            cursor.execute(self.control_state_sql(connection, queues), list(queues or ()))
            self.add_rows(snapshot, cursor.fetchall())
        return snapshot

    def _step(self, cursor: Any, snapshot: QueueSnapshot, after: str, limit: int) -> None:
        """
        Add the heads of the next queues, step by step along the claim index.

        A recursive statement, as on the other databases, would take seconds: MariaDB reads the
        whole index for each step of the recursion. Each of the first steps here reads two tasks,
        which give the head of one queue. If there are many queues, later steps read more tasks,
        and each finds the heads of several short queues.
        """
        size = 2
        for step in range(MAX_STEPS):
            cursor.execute(
                f"{HEAD} AND queue > %s ORDER BY queue, priority DESC, run_at, id LIMIT %s",
                [after, size],
            )
            rows = cursor.fetchall()
            found = _heads(rows, is_cut=len(rows) == size)[: limit - len(snapshot.heads)]
            snapshot.heads += found
            if len(rows) < size and (not found or found[-1].queue == rows[-1][0]):
                return
            after = found[-1].queue
            if len(snapshot.heads) >= limit:
                break
            if step >= FIRST_STEPS:
                size = MAX_STEP_TASKS if len(found) > 1 else STEP_TASKS
        snapshot.last = after

    def _probe(self, cursor: Any, snapshot: QueueSnapshot, queues: Sequence[str]) -> None:
        """Add the heads of these queues, many of them by one statement."""
        # Leave the queue out of ORDER BY. Otherwise MariaDB would read and sort a whole queue.
        probe = f"({HEAD} AND queue = %s ORDER BY priority DESC, run_at, id LIMIT 2)"
        for start in range(0, len(queues), PROBES):
            some = queues[start : start + PROBES]
            cursor.execute(" UNION ALL ".join([probe] * len(some)), list(some))
            snapshot.heads += _heads(cursor.fetchall())

    def claim(self, candidates: QuerySet[Any], claimant: Claimant) -> Rows:
        texts = {f"{name}_text": _AsText(name) for name in TIMES}
        candidates = candidates.annotate(due_for=SecondsSince("run_at"), **texts)
        select, params = compiled(candidates, *CLAIMED, "result_id", *texts, *ORDER)
        return self._claim(connections[candidates.db], select, params, claimant)

    def claim_heads(
        self,
        connection: BaseDatabaseWrapper,
        heads: Sequence[Head],
        limit: int,
        claimant: Claimant,
    ) -> Rows:
        places = {head.id: place for place, head in enumerate(heads)}
        # Use neither ORDER BY nor LIMIT. MariaDB would lock all the heads anyway, to sort them.
        select = f"""
            SELECT {", ".join(CLAIMED)}, result_id,
                {", ".join(f"CAST({name} AS CHAR)" for name in TIMES)},
                run_at, {self.seconds_since(connection, "run_at")}
            FROM bgtask_task {BY_ID}
            WHERE id IN ({marks(heads)}) AND status = 'READY' AND crashes = 0
              AND queue IN ({marks(heads)}) AND priority >= %s
        """
        queues, lowest = [head.queue for head in heads], heads[-1].priority
        return self._claim(
            connection,
            select,
            [*places, *queues, lowest],
            claimant,
            choose=lambda rows: sorted(rows, key=lambda row: places[row[0]])[:limit],
        )

    def _claim(
        self,
        connection: BaseDatabaseWrapper,
        select: str,
        params: Sequence[Any],
        claimant: Claimant,
        choose: Callable[[Sequence[Any]], Sequence[Any]] = lambda rows: rows,
    ) -> Rows:
        values = self.claiming_params(claimant)

        def claim() -> Sequence[Any]:
            with self.transaction(connection), connection.cursor() as cursor:
                cursor.execute(f"{select} FOR UPDATE SKIP LOCKED", params)
                rows = choose(cursor.fetchall())
                if rows:
                    cursor.execute(
                        f"UPDATE bgtask_task {BY_ID} SET {self.claiming(connection)} "
                        f"WHERE id IN ({marks(rows)}) AND status = 'READY'",
                        [*values, *sorted(row[0] for row in rows)],
                    )
            return rows

        # A claim gives up the unique keys of some tasks. An enqueue that meets such a key holds a
        # lock on its index entry, and may wait for another row of this claim.
        rows = again_after_deadlock(connection, claim)
        # The rows were read before the UPDATE, so compute the values that the UPDATE has set.
        token, attempts = CLAIMED.index("token"), CLAIMED.index("attempts")
        claimed = [list(row) for row in rows]
        for row in claimed:
            row[token] = min(row[token], TOKEN_CEILING) + values[-1]
            row[attempts] = min(row[attempts], COUNT_MAX - 1) + 1
        return claimed

    def promote(self, candidates: QuerySet[Any]) -> int:
        connection = connections[candidates.db]
        select, params = compiled(candidates, "id")
        with self.transaction(connection), connection.cursor() as cursor:
            cursor.execute(f"{select} FOR UPDATE SKIP LOCKED", params)
            rows = cursor.fetchall()
            if rows:
                cursor.execute(
                    f"UPDATE bgtask_task {BY_ID} SET status = 'READY' "
                    f"WHERE id IN ({marks(rows)}) AND status = 'SCHEDULED'",
                    sorted(row[0] for row in rows),
                )
        return len(rows)

    def finish(self, connection: BaseDatabaseWrapper, rows: Rows) -> dict[int, str]:
        with self.transaction(connection), connection.cursor() as cursor:
            # Lock the rows first, in order of their ids, so that two flushes can't deadlock.
            cursor.execute(
                f"SELECT id, token, cancel_requested FROM bgtask_task {BY_ID} "
                f"WHERE id IN ({marks(rows)}) AND status = 'RUNNING' ORDER BY id FOR UPDATE",
                sorted(row[0] for row in rows),
            )
            held = {(id_, token): cancelled for id_, token, cancelled in cursor.fetchall()}
            ours = [row for row in rows if (row[0], row[1]) in held]
            if ours:
                same, different = sorted_out(ours)
                first = ", ".join(f"%s AS {name}" for name in different)
                other = f" UNION ALL SELECT {marks(different)}"
                cursor.execute(
                    f"""
                    UPDATE bgtask_task AS t {BY_ID} JOIN (
                        SELECT v.*{constants(same)}
                        FROM (SELECT {first}{other * (len(ours) - 1)}) AS v
                    ) AS o ON t.id = o.id SET {self.finishing(connection, "t.")}
                    WHERE t.token = o.token AND t.status = 'RUNNING'
                    """,
                    [*same.values(), *chain.from_iterable(zip(*different.values(), strict=True))],
                )
        return {
            row[0]: "CANCELLED" if row[2] == "SCHEDULED" and held[row[0], row[1]] else row[2]
            for row in ours
        }

    def refused_by(self, error: IntegrityError) -> Reference | None:
        found = REFUSED.search(str(error))
        names: dict[str, Any] = found.groupdict() if found else {}
        return Reference(**names) if names else None

    def refusing_table(self, error: IntegrityError) -> str:
        reference = self.refused_by(error)
        return reference.table if reference else ""

    def add_stats(self, connection: BaseDatabaseWrapper, rows: Sequence[Sequence[Any]]) -> None:
        sums = [f"{name} = {name} + VALUES({name})" for name in STATS_SUMS]
        peaks = [f"{name} = GREATEST({name}, VALUES({name}))" for name in STATS_PEAKS]
        self._upsert(connection, rows, f"ON DUPLICATE KEY UPDATE {', '.join([*sums, *peaks])}")


def _heads(rows: Sequence[Any], is_cut: bool = False) -> list[Head]:
    """
    Return the heads of rows (queue, priority, id) that are in the order of claims.

    If the rows were cut off, the row after the last one is unknown. If the last row is the only
    one of its queue, that queue is left to the next step.
    """
    heads = []
    for queue, group in groupby(rows, key=itemgetter(0)):
        (_, priority, id_), *others = group
        heads.append(Head(queue, priority, id_, others[0][1] if others else None))
    if is_cut and heads[-1].next is None:
        heads.pop()
    return heads
