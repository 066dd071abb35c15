"""
What bgtask needs from a database, and what it can say to all of them in the same words.

A queryset says which tasks; a dialect only says how to take, write and read them. Statuses are
spelled out in the SQL, not passed as parameters, so that partial indexes fit whatever plan is
kept. A per cent sign is doubled: each statement is executed with parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.timezone import get_default_timezone

from bgtask.conf import LONGEST
from bgtask.dialects.references import Reference
from bgtask.dialects.statements import (
    COUNT_MAX,
    STATS_BATCH,
    STATS_COLUMNS,
    TOKEN_CEILING,
    as_priority,
    marks,
    token_jump,
)

if TYPE_CHECKING:
    from bgtask.models import Task, TaskQuerySet, Worker
    from bgtask.models.outcome import Outcome

# Far below the limits of PostgreSQL (1 GB) and SQLite (a billion bytes), so that memory stays flat.
STATEMENT_BYTES = 16 * 2**20

# What an outcome changes. ``o`` is the relation of outcomes; statuses come before all else, since
# MariaDB evaluates SET from left to right.
FINISH = """
    {column}status = CASE WHEN o.status = 'SCHEDULED' AND t.cancel_requested
                  THEN 'CANCELLED' ELSE o.status END,
    {column}finished_at = CASE WHEN o.status = 'SCHEDULED' AND NOT t.cancel_requested
                       THEN NULL ELSE {ended} END,
    {column}run_at = CASE WHEN o.status = 'SCHEDULED'
                  THEN COALESCE(o.run_at, {next}) ELSE t.run_at END,
    {column}started_at = COALESCE(t.started_at, {started}),
    {column}duration_ms = o.duration_ms,
    {column}return_value = o.return_value,
    {column}last_error = o.last_error,
    {column}error_class = o.error_class,
    {column}error_fingerprint = o.error_fingerprint,
    {column}locked_by_id = NULL,
    {column}locked_at = NULL,
    {column}deadline_at = NULL
"""


MOST_HEADS = 5_000  # Queues that one look reads; the next look goes on behind them.


@dataclass(frozen=True, slots=True)
class Head:
    """The task that would be claimed first of its queue."""

    queue: str
    priority: int
    id: int | None = None  # None: known no longer, since others of the queue were claimed.
    next: int | None = None  # The priority of the task behind it; None: there is none.


@dataclass(slots=True)
class Outlook:
    """What there is to do, and what must not be done."""

    heads: list[Head] = field(default_factory=list)
    last: str = ""  # The queue behind which the next look goes on; empty: there are no more.
    suspects: frozenset[str] = frozenset()  # Queues that have some.
    paused: frozenset[str] = frozenset()
    on_hold: frozenset[str] = frozenset()
    next_due: float | None = None  # Seconds until the next SCHEDULED task is due; ≤ 0: overdue.


@dataclass(frozen=True, slots=True)
class Server:
    """
    Which PostgreSQL server a connection leads to.

    Each promotion of a standby begins a new timeline, whose number is higher. Timelines can only
    be compared within one cluster. A standby has neither, since it follows another server's.
    """

    is_standby: bool
    cluster: int = 0
    timeline: int = 0


class Dialect(ABC):
    # Which server

    def server(self, connection: BaseDatabaseWrapper) -> Server | None:
        """Return which server this connection leads to, or None where no server can tell."""
        return None

    # Time

    @abstractmethod
    def clock(self, connection: BaseDatabaseWrapper, seconds: str | None = None) -> str:
        """The time of the statement as Django stores it, plus so many seconds (SQL)."""

    @abstractmethod
    def seconds_since(self, connection: BaseDatabaseWrapper, column: str) -> str:
        """
        Seconds from the time in a column to that of the statement, as a float (SQL).

        NULL where the column holds no date: text on SQLite, infinity on PostgreSQL.
        """

    def offset(self, connection: BaseDatabaseWrapper) -> int:
        """Seconds from UTC to the zone in which Django stores datetimes here."""
        return offset_at(datetime.now(UTC), connection.timezone or get_default_timezone())

    # Transactions

    def transaction(self, connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
        """A short transaction that will write."""
        return transaction.atomic(using=connection.alias)

    # Size

    def statement_bytes(self, connection: BaseDatabaseWrapper) -> int:
        """The bytes that the values of one statement may take."""
        return STATEMENT_BYTES

    def limit_in_words(self, connection: BaseDatabaseWrapper) -> str:
        """Name the setting of the database that limits a statement, and its value."""
        return f"a statement of {STATEMENT_BYTES:,} bytes"

    def sent_bytes(self, text: str) -> int:
        """The bytes that a text takes in a statement."""
        return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))

    # Enqueue

    def insert(
        self,
        connection: BaseDatabaseWrapper,
        columns: Sequence[str],
        values: Sequence[str],
        params: Sequence[Any],
    ) -> Sequence[Any]:
        """Insert one task; return its id, status, run_at and enqueued_at."""
        statement = f"INSERT INTO bgtask_task ({', '.join(columns)}) VALUES ({', '.join(values)})"
        returning = "id, status, run_at, enqueued_at"
        with connection.cursor() as cursor:
            if connection.features.can_return_columns_from_insert:
                cursor.execute(f"{statement} RETURNING {returning}", params)
                (row,) = cursor.fetchall()
            else:
                cursor.execute(statement, params)
                cursor.execute(
                    f"SELECT {returning} FROM bgtask_task WHERE id = %s", [cursor.lastrowid]
                )
                row = cursor.fetchone()
        return row  # type: ignore[no-any-return]

    def insert_many(
        self,
        connection: BaseDatabaseWrapper,
        columns: Sequence[str],
        values: Sequence[str],
        params: Sequence[Any],
        texts: Sequence[str],
    ) -> None:
        """Insert a task for each of these task_params, the other columns being the same."""
        row = f"(%s, {', '.join(values)})"
        rows = ", ".join([row] * len(texts))
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO bgtask_task (task_params, {', '.join(columns)}) VALUES {rows}",
                [param for text in texts for param in (text, *params)],
            )

    def wake(self, connection: BaseDatabaseWrapper, queue: str) -> None:  # noqa: B027
        """Tell sleeping runners, where the database can, that there is something in the queue."""

    # Which queue next

    @abstractmethod
    def outlook(
        self,
        connection: BaseDatabaseWrapper,
        queues: Sequence[str] | None = None,
        after: str = "",
        limit: int = MOST_HEADS,
    ) -> Outlook:
        """
        Return what there is to do, in these queues or in all; two probes of the claim index each.

        Of all queues it returns the heads of the first ``limit`` whose name is greater than
        ``after``. Of named queues it returns every head.
        """

    def rest(self, connection: BaseDatabaseWrapper, queues: Sequence[str] | None = None) -> str:
        """
        Return SQL for all of an outlook but the heads: (kind, name, number, id, next).

        Its parameters are the queues. Only their suspects are told, and none of a paused queue:
        they are limited in number, and must not keep those that can be run from being seen.
        """
        clock = self.clock(connection)
        # Where run_at is no date, it may still be what sorts as due, and would hide the others.
        due_in = (
            f"COALESCE(-{self.seconds_since(connection, 'run_at')}, "
            f"CASE WHEN run_at <= {clock} THEN 0 END)"
        )
        served = "" if queues is None else f"AND queue IN ({marks(queues) or 'NULL'})"
        return f"""
            SELECT 'paused', queue, NULL, NULL, NULL FROM bgtask_queuepause
            WHERE expires_at IS NULL OR expires_at > {clock}
            UNION ALL
            SELECT 'hold', task_name, NULL, NULL, NULL FROM bgtask_taskhold
            WHERE expires_at IS NULL OR expires_at > {clock}
            UNION ALL
            SELECT 'next', NULL, due_in, NULL, NULL FROM (
                SELECT {due_in} AS due_in FROM bgtask_task
                WHERE status = 'SCHEDULED' ORDER BY run_at, id LIMIT 1
            ) AS n
            UNION ALL
            SELECT 'suspect', queue, NULL, NULL, NULL FROM (
                SELECT DISTINCT queue FROM bgtask_task
                WHERE status = 'READY' AND crashes > 0 AND queue NOT IN (
                    SELECT queue FROM bgtask_queuepause
                    WHERE expires_at IS NULL OR expires_at > {clock}
                ) {served} LIMIT 100
            ) AS s
        """

    def note(self, outlook: Outlook, rows: Iterable[Sequence[Any]]) -> None:
        paused, on_hold, suspects = set(), set(), set()
        for kind, name, number, id_, next_ in rows:
            match kind:
                case "head":
                    outlook.heads.append(Head(name, as_priority(number), id_, next_))
                case "paused":
                    paused.add(name)
                case "hold":
                    on_hold.add(name)
                case "next":
                    outlook.next_due = None if number is None else float(number)
                case "suspect":
                    suspects.add(name)
        outlook.paused, outlook.on_hold = frozenset(paused), frozenset(on_hold)
        outlook.suspects = frozenset(suspects)

    # Take

    @abstractmethod
    def claim(self, candidates: TaskQuerySet, worker: Worker, max_run_time: float) -> list[Task]:
        """Give the worker these tasks, but for those that others are taking right now."""

    @abstractmethod
    def claim_heads(
        self,
        candidates: TaskQuerySet,
        heads: Sequence[Head],
        limit: int,
        worker: Worker,
        max_run_time: float,
    ) -> list[Task]:
        """
        Give the worker the first ``limit`` of these heads that are still there to be claimed.

        The statement restates what the look saw: each is READY, no suspect, in one of the heads'
        queues, and no less pressing than the last of the heads.
        """

    def claiming(self, connection: BaseDatabaseWrapper) -> str:
        """
        Return what a claim sets; ``claiming_params`` are its parameters.

        Numbers edited by hand must not fail the claim of their neighbours. So each is brought
        within its bounds, and the task fails as malformed once it is run.
        """
        seconds = f"CASE WHEN max_run_time > 0 AND max_run_time <= {LONGEST} "
        seconds += "THEN max_run_time ELSE %s END"
        return f"""
            status = 'RUNNING',
            locked_by_id = %s,
            last_worker = %s,
            locked_at = {self.clock(connection)},
            deadline_at = {self.clock(connection, seconds)},
            token = CASE WHEN token < {TOKEN_CEILING} THEN token ELSE {TOKEN_CEILING} END + %s,
            attempts = CASE WHEN attempts < {COUNT_MAX} THEN attempts + 1 ELSE {COUNT_MAX} END
        """

    def claiming_params(self, worker: Worker, max_run_time: float) -> list[Any]:
        return [worker.pk, worker.label, max_run_time, token_jump()]

    def claim_news(
        self,
        candidates: TaskQuerySet,
        worker: Worker,
        queue: str,
        limit: int,
        max_run_time: float,
    ) -> list[Task]:
        """Up to so many of a queue that a notification named; here there are none."""
        return []

    @abstractmethod
    def promote(self, candidates: TaskQuerySet) -> int:
        """Make these SCHEDULED tasks READY, but for those that others are at right now."""

    # Finish

    @abstractmethod
    def finish(
        self, connection: BaseDatabaseWrapper, outcomes: Sequence[Outcome]
    ) -> dict[int, str]:
        """Write the outcomes; return the new status of each task that was still its attempt's."""

    def finishing(self, connection: BaseDatabaseWrapper, column: str = "") -> str:
        return FINISH.format(
            column=column,
            ended=self.clock(connection, "-o.age"),
            started=self.clock(connection, "-(o.age + o.duration)"),
            next=self.clock(connection, "o.delay - o.age"),
        )

    def outcome_row(self, connection: BaseDatabaseWrapper, outcome: Outcome) -> tuple[Any, ...]:
        """The values of OUTCOME_COLUMNS."""
        failure = outcome.failure
        run_at = outcome.run_at
        return (
            outcome.task.pk,
            outcome.task.token,
            outcome.status.value,
            outcome.age,
            outcome.duration,
            round(outcome.duration * 1000),
            outcome.delay,
            run_at and connection.ops.adapt_datetimefield_value(run_at),
            outcome.return_value,
            failure.traceback if failure else "",
            failure.error_class if failure else "",
            failure.fingerprint if failure else "",
        )

    # Foreign keys

    def references(self, connection: BaseDatabaseWrapper, table: str) -> list[Reference]:
        """
        Return the foreign keys that refer to this table.

        None where the error names the foreign key as soon as a row is deleted: see ``refused_by``.
        """
        return []

    def refused_by(self, error: IntegrityError) -> Reference | None:
        """Return the foreign key that this error is about, if it tells all its names."""
        return None

    def refusing_table(self, error: IntegrityError) -> str:
        """Return the table whose rows refused a deletion, or an empty string."""
        reference = self.refused_by(error)
        return reference.label if reference else ""

    def check_now(self, connection: BaseDatabaseWrapper, references: Iterable[Reference]) -> None:
        """Raise IntegrityError now where these foreign keys would raise it at COMMIT."""
        return

    # Statistics

    @abstractmethod
    def add_stats(self, connection: BaseDatabaseWrapper, rows: Sequence[Sequence[Any]]) -> None:
        """Add these rows of STATS_COLUMNS to what is there, in the caller's transaction."""

    def _upsert(
        self, connection: BaseDatabaseWrapper, rows: Sequence[Sequence[Any]], on_conflict: str
    ) -> None:
        row = f"({marks(STATS_COLUMNS)})"
        with connection.cursor() as cursor:
            for start in range(0, len(rows), STATS_BATCH):
                batch = rows[start : start + STATS_BATCH]
                cursor.execute(
                    f"INSERT INTO bgtask_taskstats ({', '.join(STATS_COLUMNS)}) "
                    f"VALUES {', '.join([row] * len(batch))} {on_conflict}",
                    [value for values in batch for value in values],
                )


def offset_at(instant: datetime, zone: tzinfo) -> int:
    """Seconds from UTC to this zone; asked by the instant, for its wall clock shows hours twice."""
    offset = instant.astimezone(zone).utcoffset()
    return round(offset.total_seconds()) if offset else 0
