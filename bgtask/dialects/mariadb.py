"""MariaDB and MySQL: no UPDATE … RETURNING, so what is taken is locked, read and then written."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from django.db import IntegrityError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask.dialects.base import MOST_HEADS, Dialect, Head, Outlook
from bgtask.dialects.clock import Since
from bgtask.dialects.references import Reference
from bgtask.dialects.statements import (
    CLAIMED,
    COUNT_MAX,
    ORDER,
    STATS_PEAKS,
    STATS_SUMS,
    TOKEN_CEILING,
    compiled,
    constants,
    instances,
    marks,
    sorted_out,
)

if TYPE_CHECKING:
    from bgtask.models import Task, TaskQuerySet, Worker
    from bgtask.models.outcome import Outcome

# Where the statistics say that a status is rare, an index of it would be chosen, and the rows that
# others hold be read on the way, and waited for.
BY_ID = "FORCE INDEX (PRIMARY)"

HEAD = "SELECT queue, priority, id FROM bgtask_task WHERE status = 'READY' AND crashes = 0"
MOST_STEPS = 250  # Statements of one look.
FIRST_STEPS = 10  # Of few queues, each step reads two tasks.
STEP_TASKS, MOST_STEP_TASKS = 100, 500  # That a later one of these statements reads.
PROBES = 100  # Of named queues, in one statement.
# Of max_allowed_packet, for the words of the statement and its small values.
RESERVED_BYTES = 8 * 2**10
ESCAPED = ("\\", "'", '"', "\n", "\r", "\0", "\x1a")  # Each is sent as two characters.
REFUSED = re.compile(
    r"\(`(?P<schema>[^`]+)`\.`(?P<table>[^`]+)`, CONSTRAINT `(?P<constraint>[^`]+)` "
    r"FOREIGN KEY \(`(?P<column>[^`]+)`\) "
    r"REFERENCES (?:`[^`]+`\.)?`(?P<target_table>[^`]+)` \(`(?P<target_column>[^`]+)`\)"
)


class MariaDB(Dialect):
    def __init__(self) -> None:
        # By the driver's connection: after a reconnect the server is asked again.
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

    def outlook(
        self,
        connection: BaseDatabaseWrapper,
        queues: Sequence[str] | None = None,
        after: str = "",
        limit: int = MOST_HEADS,
    ) -> Outlook:
        outlook = Outlook()
        with connection.cursor() as cursor:
            if queues is None:
                self._step(cursor, outlook, after, limit)
            else:
                self._probe(cursor, outlook, queues)
            cursor.execute(self.rest(connection, queues), list(queues or ()))
            self.note(outlook, cursor.fetchall())
        return outlook

    def _step(self, cursor: Any, outlook: Outlook, after: str, limit: int) -> None:
        """
        Add the heads of the next queues, by steps along the index of claims.

        A recursive statement, as on the other databases, would take seconds here: MariaDB reads
        the whole index for each of its steps. One of the first steps reads two tasks, which tell
        the head of one queue. Where there are many queues, later steps read more, and find the
        heads of several short queues each.
        """
        size = 2
        for step in range(MOST_STEPS):
            cursor.execute(
                f"{HEAD} AND queue > %s ORDER BY queue, priority DESC, run_at, id LIMIT %s",
                [after, size],
            )
            rows = cursor.fetchall()
            found = _heads(rows, is_cut=len(rows) == size)[: limit - len(outlook.heads)]
            outlook.heads += found
            if len(rows) < size and (not found or found[-1].queue == rows[-1][0]):
                return
            after = found[-1].queue
            if len(outlook.heads) >= limit:
                break
            if step >= FIRST_STEPS:
                size = MOST_STEP_TASKS if len(found) > 1 else STEP_TASKS
        outlook.last = after

    def _probe(self, cursor: Any, outlook: Outlook, queues: Sequence[str]) -> None:
        """Add the heads of these queues, of many by one statement."""
        # Without the queue in ORDER BY: with it, MariaDB would read all of a queue, and sort.
        probe = f"({HEAD} AND queue = %s ORDER BY priority DESC, run_at, id LIMIT 2)"
        for start in range(0, len(queues), PROBES):
            some = queues[start : start + PROBES]
            cursor.execute(" UNION ALL ".join([probe] * len(some)), list(some))
            outlook.heads += _heads(cursor.fetchall())

    def claim(self, candidates: TaskQuerySet, worker: Worker, max_run_time: float) -> list[Task]:
        select, params = compiled(candidates.annotate(due_for=Since("run_at")), *CLAIMED, *ORDER)
        return self._claim(candidates, select, params, worker, max_run_time)

    def claim_heads(
        self,
        candidates: TaskQuerySet,
        heads: Sequence[Head],
        limit: int,
        worker: Worker,
        max_run_time: float,
    ) -> list[Task]:
        connection = connections[candidates.db]
        places = {head.id: place for place, head in enumerate(heads)}
        # Without ORDER BY and LIMIT: MariaDB would lock all of them anyway, to sort them.
        select = f"""
            SELECT {", ".join(CLAIMED)}, run_at, {self.seconds_since(connection, "run_at")}
            FROM bgtask_task {BY_ID}
            WHERE id IN ({marks(heads)}) AND status = 'READY' AND crashes = 0
              AND queue IN ({marks(heads)}) AND priority >= %s
        """
        queues, lowest = [head.queue for head in heads], heads[-1].priority
        return self._claim(
            candidates,
            select,
            [*places, *queues, lowest],
            worker,
            max_run_time,
            choose=lambda rows: sorted(rows, key=lambda row: places[row[0]])[:limit],
        )

    def _claim(
        self,
        candidates: TaskQuerySet,
        select: str,
        params: Sequence[Any],
        worker: Worker,
        max_run_time: float,
        choose: Callable[[Sequence[Any]], Sequence[Any]] = lambda rows: rows,
    ) -> list[Task]:
        connection = connections[candidates.db]
        values = self.claiming_params(worker, max_run_time)
        with self.transaction(connection), connection.cursor() as cursor:
            cursor.execute(f"{select} FOR UPDATE SKIP LOCKED", params)
            rows = choose(cursor.fetchall())
            if rows:
                cursor.execute(
                    f"UPDATE bgtask_task {BY_ID} SET {self.claiming(connection)} "
                    f"WHERE id IN ({marks(rows)}) AND status = 'READY'",
                    [*values, *sorted(row[0] for row in rows)],
                )
        tasks = instances(candidates, rows, worker)
        for task in tasks:
            task.token = min(task.token, TOKEN_CEILING) + values[-1]
            task.attempts = min(task.attempts, COUNT_MAX - 1) + 1
        return tasks

    def promote(self, candidates: TaskQuerySet) -> int:
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

    def finish(
        self, connection: BaseDatabaseWrapper, outcomes: Sequence[Outcome]
    ) -> dict[int, str]:
        rows = [self.outcome_row(connection, outcome) for outcome in outcomes]
        with self.transaction(connection), connection.cursor() as cursor:
            # Locked first, in order of their ids, so that two flushes never wait for each other.
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

    Where the rows were cut off, nothing is known of what is behind the last one. If it is the only
    one of its queue, that queue is left to the next step.
    """
    heads = []
    for queue, group in groupby(rows, key=itemgetter(0)):
        (_, priority, id_), *others = group
        heads.append(Head(queue, priority, id_, others[0][1] if others else None))
    if is_cut and heads[-1].next is None:
        heads.pop()
    return heads
