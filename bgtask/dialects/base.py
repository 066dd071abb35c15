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

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.timezone import get_default_timezone

from bgtask.dialects.statements import STATS_BATCH, STATS_COLUMNS, marks

if TYPE_CHECKING:
    from bgtask.models import Outcome, Task, TaskQuerySet, Worker

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


@dataclass(frozen=True, slots=True)
class Head:
    """The task that would be claimed first of its queue."""

    queue: str
    priority: int


@dataclass(slots=True)
class Outlook:
    """What there is to do, and what must not be done."""

    heads: list[Head] = field(default_factory=list)
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
        """Seconds from the time in a column to that of the statement, as a float (SQL)."""

    def offset(self, connection: BaseDatabaseWrapper) -> int:
        """Seconds from UTC to the zone in which Django stores datetimes here."""
        return offset_at(datetime.now(UTC), connection.timezone or get_default_timezone())

    # Transactions

    def transaction(self, connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
        """A short transaction that will write."""
        return transaction.atomic(using=connection.alias)

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
        self, connection: BaseDatabaseWrapper, queues: Sequence[str] | None = None
    ) -> Outlook:
        """What there is to do, in these queues or in all; one probe of the claim index a queue."""

    def rest(self, connection: BaseDatabaseWrapper) -> str:
        """All that an outlook knows beside the heads, as rows of (kind, name, number)."""
        clock = self.clock(connection)
        due_in = f"-{self.seconds_since(connection, 'run_at')}"
        return f"""
            SELECT 'paused', name, NULL FROM bgtask_queue WHERE until IS NULL OR until > {clock}
            UNION ALL
            SELECT 'hold', task_name, NULL FROM bgtask_hold WHERE until IS NULL OR until > {clock}
            UNION ALL
            SELECT 'next', NULL, due_in FROM (
                SELECT {due_in} AS due_in FROM bgtask_task
                WHERE status = 'SCHEDULED' ORDER BY run_at, id LIMIT 1
            ) AS n
            UNION ALL
            SELECT 'suspect', queue, NULL FROM (
                SELECT DISTINCT queue FROM bgtask_task
                WHERE status = 'READY' AND crashes > 0 LIMIT 100
            ) AS s
        """

    def note(self, outlook: Outlook, rows: Iterable[Sequence[Any]]) -> None:
        paused, on_hold, suspects = set(), set(), set()
        for kind, name, number in rows:
            match kind:
                case "head":
                    outlook.heads.append(Head(name, int(number)))
                case "paused":
                    paused.add(name)
                case "hold":
                    on_hold.add(name)
                case "next":
                    outlook.next_due = float(number)
                case "suspect":
                    suspects.add(name)
        outlook.paused, outlook.on_hold = frozenset(paused), frozenset(on_hold)
        outlook.suspects = frozenset(suspects)

    # Take

    @abstractmethod
    def claim(self, candidates: TaskQuerySet, worker: Worker, max_run_time: float) -> list[Task]:
        """Give the worker these tasks, but for those that others are taking right now."""

    def claiming(self, connection: BaseDatabaseWrapper) -> str:
        """What a claim sets; its parameters: worker, label, seconds of MAX_RUN_TIME."""
        return f"""
            status = 'RUNNING',
            locked_by_id = %s,
            last_worker = %s,
            locked_at = {self.clock(connection)},
            deadline_at = {self.clock(connection, "COALESCE(max_run_time, %s)")},
            token = token + 1,
            attempts = attempts + 1
        """

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
