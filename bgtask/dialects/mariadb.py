"""MariaDB and MySQL: no UPDATE … RETURNING, so what is taken is locked, read and then written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask.dialects.base import Dialect, Head, Outlook
from bgtask.dialects.clock import Since
from bgtask.dialects.references import Reference
from bgtask.dialects.statements import (
    CLAIMED,
    ORDER,
    STATS_PEAKS,
    STATS_SUMS,
    compiled,
    constants,
    instances,
    marks,
    sorted_out,
)

if TYPE_CHECKING:
    from bgtask.models import Outcome, Task, TaskQuerySet, Worker

# Where the statistics say that a status is rare, an index of it would be chosen, and the rows that
# others hold be read on the way, and waited for.
BY_ID = "FORCE INDEX (PRIMARY)"

REFUSED = re.compile(
    r"\(`(?P<schema>[^`]+)`\.`(?P<table>[^`]+)`, CONSTRAINT `(?P<constraint>[^`]+)` "
    r"FOREIGN KEY \(`(?P<column>[^`]+)`\) "
    r"REFERENCES (?:`[^`]+`\.)?`(?P<target_table>[^`]+)` \(`(?P<target_column>[^`]+)`\)"
)


class MariaDB(Dialect):
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
        self, connection: BaseDatabaseWrapper, queues: Sequence[str] | None = None
    ) -> Outlook:
        # By steps along the index: a recursive statement, as elsewhere, would take MariaDB the
        # better part of a second.
        outlook = Outlook()
        head = "SELECT queue, priority FROM bgtask_task WHERE status = 'READY' AND crashes = 0"
        order = "priority DESC, run_at, id LIMIT 1"
        with connection.cursor() as cursor:
            if queues is None:
                last = ""
                while True:
                    cursor.execute(f"{head} AND queue > %s ORDER BY queue, {order}", [last])
                    row = cursor.fetchone()
                    if row is None:
                        break
                    outlook.heads.append(Head(*row))
                    last = row[0]
            else:
                for queue in queues:
                    # Not by the queue as well: MariaDB would read all of it, and sort.
                    cursor.execute(f"{head} AND queue = %s ORDER BY {order}", [queue])
                    outlook.heads.extend(Head(*row) for row in cursor.fetchall())
            cursor.execute(self.rest(connection), [])
            self.note(outlook, cursor.fetchall())
        return outlook

    def claim(self, candidates: TaskQuerySet, worker: Worker, max_run_time: float) -> list[Task]:
        connection = connections[candidates.db]
        select, params = compiled(candidates.annotate(due_for=Since("run_at")), *CLAIMED, *ORDER)
        with self.transaction(connection), connection.cursor() as cursor:
            cursor.execute(f"{select} FOR UPDATE SKIP LOCKED", params)
            rows = cursor.fetchall()
            if rows:
                cursor.execute(
                    f"UPDATE bgtask_task {BY_ID} SET {self.claiming(connection)} "
                    f"WHERE id IN ({marks(rows)}) AND status = 'READY'",
                    [worker.pk, worker.label, max_run_time, *sorted(row[0] for row in rows)],
                )
        tasks = instances(candidates, rows, worker)
        for task in tasks:
            task.token += 1
            task.attempts += 1
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
