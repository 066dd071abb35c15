"""
The operations that bgtask needs from a database, and the SQL that all databases share.

A queryset selects the tasks. A subclass of QueueOperations only defines how to claim, write and
read them. Statuses are literals in the SQL, not parameters, so that any query plan that the
database keeps can use the partial indexes. A per cent sign is doubled, because each statement is
executed with parameters. The module is long because it shows side by side every statement that a
worker executes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any, NamedTuple

from django.db import IntegrityError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import QuerySet
from django.utils.timezone import get_default_timezone

from bgtask.conf import MAX_DURATION_SECONDS
from bgtask.db.references import Reference
from bgtask.db.sql import (
    COUNT_MAX,
    STATS_BATCH,
    STATS_COLUMNS,
    TOKEN_CEILING,
    as_priority,
    marks,
    token_jump,
)

# Far below the limits of PostgreSQL (1 GB) and SQLite (a billion bytes), so that a statement
# takes little memory.
STATEMENT_BYTES = 16 * 2**20

# The SET clause that writes an outcome. ``o`` is the relation of outcomes. The status comes before
# all else, since MariaDB evaluates SET from left to right.
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
    {column}error_message = o.error_message,
    {column}error_class = o.error_class,
    {column}error_fingerprint = o.error_fingerprint,
    {column}unique_key = CASE WHEN o.status = 'SCHEDULED' AND NOT t.cancel_requested
                         OR t.unique_until > {clock} THEN t.unique_key END,
    {column}locked_by_id = NULL,
    {column}locked_at = NULL,
    {column}deadline_at = NULL
"""


# The columns of a stored task that the caller learns.
STORED = ("id", "status", "run_at", "enqueued_at")
# The index must be named by its columns and its condition.
IF_FREE = "ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL DO NOTHING"
# The task that a call replaces: its parameters are the key and the name of the task.
REPLACED = "unique_key = %s AND status IN ('READY', 'SCHEDULED', 'HELD') AND task_name = %s"
REPLACED_COLUMNS = ("task_params", "priority", "verbose_name")

MAX_HEADS = 5_000  # Queues that one snapshot reads. The next snapshot continues after them.


Rows = Sequence[Sequence[Any]]


class Claimant(NamedTuple):
    """The worker that claims tasks, and the run time of tasks that have no own limit."""

    worker_id: int
    label: str
    max_run_time: float  # Seconds.


@dataclass(frozen=True, slots=True)
class Head:
    """The task that a claim would take first from its queue."""

    queue: str
    priority: int
    id: int | None = None  # None: no longer known, since other tasks of the queue were claimed.
    next: int | None = None  # Priority of the task after the head. None: there is no such task.


@dataclass(slots=True)
class QueueSnapshot:
    """The queues with tasks to claim, and the queues and names that must not be started."""

    heads: list[Head] = field(default_factory=list)
    last: str = ""  # The next snapshot continues after this queue. Empty: there are no more.
    suspects: frozenset[str] = frozenset()  # Queues that have suspects.
    paused: frozenset[str] = frozenset()
    on_hold: frozenset[str] = frozenset()
    next_due: float | None = None  # Seconds until the next SCHEDULED task is due. ≤ 0: overdue.


@dataclass(frozen=True, slots=True)
class Server:
    """
    The PostgreSQL server that a connection leads to.

    Each promotion of a standby begins a new timeline, whose number is higher. Timelines can only
    be compared within one cluster. A standby has neither number here, since it follows the
    timeline of another server.
    """

    is_standby: bool
    cluster: int = 0
    timeline: int = 0


class Replacement(NamedTuple):
    """What a call gives to the task that waits under the same unique key."""

    key: str
    columns: Mapping[str, Any]
    schedule: float | datetime | None  # Seconds from now, or a time.
    latest: float | None  # Seconds after the enqueue, beyond which the task is not put off.


class QueueOperations(ABC):
    least = "LEAST"  # The function that returns the least of its arguments.

    # Which server

    def server(self, connection: BaseDatabaseWrapper) -> Server | None:
        """Return the server that this connection leads to, or None if a server can't tell."""
        return None

    # Time

    @abstractmethod
    def clock(self, connection: BaseDatabaseWrapper, seconds: str | None = None) -> str:
        """Return SQL for the time of the statement as Django stores it, plus ``seconds``."""

    @abstractmethod
    def seconds_since(self, connection: BaseDatabaseWrapper, column: str) -> str:
        """
        Return SQL for the seconds from a column's time to that of the statement, as a float.

        The SQL gives NULL if the column holds no date: text on SQLite, infinity on PostgreSQL.
        """

    def offset(self, connection: BaseDatabaseWrapper) -> int:
        """Return the seconds from UTC to the zone in which Django stores datetimes here."""
        return offset_at(datetime.now(UTC), connection.timezone or get_default_timezone())

    # Transactions

    def transaction(self, connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
        """Return a context manager for a short transaction that will write."""
        return transaction.atomic(using=connection.alias)

    # Size

    def statement_bytes(self, connection: BaseDatabaseWrapper) -> int:
        """Return the number of bytes that the values of one statement may take."""
        return STATEMENT_BYTES

    def limit_in_words(self, connection: BaseDatabaseWrapper) -> str:
        """Return the name and the value of the database's setting that limits a statement."""
        return f"a statement of {STATEMENT_BYTES:,} bytes"

    def sent_bytes(self, text: str) -> int:
        """Return the number of bytes that a text takes in a statement."""
        return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))

    # Enqueue

    def insert(
        self,
        connection: BaseDatabaseWrapper,
        columns: Sequence[str],
        values: Sequence[str],
        params: Sequence[Any],
        on_conflict: str = "",
    ) -> Any:
        """Insert one task. Return its STORED columns, or None if ``on_conflict`` did nothing."""
        statement = f"INSERT INTO bgtask_task ({', '.join(columns)}) VALUES ({', '.join(values)})"
        returning = ", ".join(STORED)
        with connection.cursor() as cursor:
            if connection.features.can_return_columns_from_insert:
                cursor.execute(f"{statement} {on_conflict} RETURNING {returning}", params)
                rows = cursor.fetchall()
            else:
                cursor.execute(statement, params)
                cursor.execute(
                    f"SELECT {returning} FROM bgtask_task WHERE id = %s", [cursor.lastrowid]
                )
                rows = cursor.fetchall()
        return rows[0] if rows else None

    def insert_many(
        self,
        connection: BaseDatabaseWrapper,
        columns: Sequence[str],
        values: Sequence[str],
        params: Sequence[Any],
        texts: Sequence[str],
    ) -> None:
        """Insert a task for each of these task_params, with the other columns the same."""
        row = f"(%s, {', '.join(values)})"
        rows = ", ".join([row] * len(texts))
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO bgtask_task (task_params, {', '.join(columns)}) VALUES {rows}",
                [param for text in texts for param in (text, *params)],
            )

    # Enqueue with a unique key

    def insert_if_free(
        self,
        connection: BaseDatabaseWrapper,
        columns: Sequence[str],
        values: Sequence[str],
        params: Sequence[Any],
        key: str,
    ) -> Any:
        """
        Insert one task unless another holds its unique key.

        Return the STORED columns, or None if the key is not free. The caller's transaction stays
        usable.
        """
        return self.insert(connection, columns, values, params, IF_FREE)

    def insert_with_key(
        self,
        connection: BaseDatabaseWrapper,
        columns: Sequence[str],
        values: Sequence[str],
        params: Sequence[Any],
        text: str,
        key: str,
    ) -> Any:
        """Insert a task with these task_params and this unique key, as ``insert_if_free`` does."""
        return self.insert_if_free(
            connection,
            ["task_params", "unique_name", "unique_key", *columns],
            ["%s", "%s", "%s", *values],
            [text, key, key, *params],
            key,
        )

    def insert_many_if_free(
        self,
        connection: BaseDatabaseWrapper,
        columns: Sequence[str],
        values: Sequence[str],
        params: Sequence[Any],
        keyed: Sequence[tuple[str, str]],
    ) -> set[str]:
        """
        Insert a task for each of these (task_params, unique key) whose key is free.

        Return the keys of the tasks that were inserted.
        """
        row = f"(%s, %s, %s, {', '.join(values)})"
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO bgtask_task (task_params, unique_name, unique_key, "
                f"{', '.join(columns)}) VALUES {', '.join([row] * len(keyed))} {IF_FREE} "
                "RETURNING unique_key",
                [param for text, key in keyed for param in (text, key, key, *params)],
            )
            return {key for (key,) in cursor.fetchall()}

    def replace_waiting(
        self, connection: BaseDatabaseWrapper, replacement: Replacement
    ) -> Sequence[Any] | None:
        """
        Give the waiting task that holds the key other parameters, and another time and priority.

        Return the STORED columns, or None if no waiting task of this name holds the key.
        """
        assignments, params = self.replacing(connection, replacement)
        with connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE bgtask_task SET {assignments} WHERE {REPLACED} "
                f"RETURNING {', '.join(STORED)}",
                [*params, replacement.key, replacement.columns["task_name"]],
            )
            rows = cursor.fetchall()
        return rows[0] if rows else None

    def replacing(
        self, connection: BaseDatabaseWrapper, replacement: Replacement
    ) -> tuple[str, list[Any]]:
        """Return the SET clause of a replacement, and its parameters."""
        clock = self.clock(connection)
        schedule, latest = replacement.schedule, replacement.latest
        params: list[Any]
        if isinstance(schedule, datetime):
            run_at, params = "%s", [connection.ops.adapt_datetimefield_value(schedule)]
        else:
            run_at, params = self.clock(connection, "%s"), [schedule or 0.0]
        if latest is not None:  # Put the task off no further than so long after its enqueue.
            left = f"%s - {self.seconds_since(connection, 'enqueued_at')}"
            run_at = f"{self.least}({run_at}, {self.clock(connection, left)})"
            params.append(latest)
        columns = {name: replacement.columns[name] for name in REPLACED_COLUMNS}
        assignments = [f"{name} = %s" for name in columns]
        # The status comes before the time, since MariaDB evaluates SET from left to right.
        assignments += [
            f"status = CASE WHEN status = 'HELD' THEN status WHEN {run_at} <= {clock} "
            "THEN 'READY' ELSE 'SCHEDULED' END",
            f"run_at = {run_at}",
        ]
        return ", ".join(assignments), [*columns.values(), *params, *params]

    def wake(self, connection: BaseDatabaseWrapper, queue: str) -> None:  # noqa: B027
        """Notify sleeping runners that the queue has tasks, if the database can notify."""

    # Choice of the queue

    @abstractmethod
    def snapshot(
        self,
        connection: BaseDatabaseWrapper,
        queues: Sequence[str] | None = None,
        after: str = "",
        limit: int = MAX_HEADS,
    ) -> QueueSnapshot:
        """
        Return a snapshot of these queues, or of all.

        Each queue takes two probes of the claim index. Without ``queues``, return the heads of the
        first ``limit`` queues whose names are greater than ``after``. With ``queues``, return
        every head.
        """

    def control_state_sql(
        self, connection: BaseDatabaseWrapper, queues: Sequence[str] | None = None
    ) -> str:
        """
        Return SQL for all of a snapshot except the heads: (kind, name, number, id, next).

        The parameters of the SQL are the queues. The SQL finds only suspects of these queues, and
        none of a paused queue. The number of rows of suspects is limited, so suspects that can't
        run must not hide those that can.
        """
        clock = self.clock(connection)
        # A run_at that is no date may still sort as due. Such a task comes first, so report it as
        # due, or it would hide the other tasks.
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

    def add_rows(self, snapshot: QueueSnapshot, rows: Iterable[Sequence[Any]]) -> None:
        paused, on_hold, suspects = set(), set(), set()
        for kind, name, number, id_, next_ in rows:
            match kind:
                case "head":
                    snapshot.heads.append(Head(name, as_priority(number), id_, next_))
                case "paused":
                    paused.add(name)
                case "hold":
                    on_hold.add(name)
                case "next":
                    snapshot.next_due = None if number is None else float(number)
                case "suspect":
                    suspects.add(name)
        snapshot.paused, snapshot.on_hold = frozenset(paused), frozenset(on_hold)
        snapshot.suspects = frozenset(suspects)

    # Claim and promote

    @abstractmethod
    def claim(self, candidates: QuerySet[Any], claimant: Claimant) -> Rows:
        """Claim these tasks, except those that another worker is claiming; return their rows."""

    @abstractmethod
    def claim_heads(
        self,
        connection: BaseDatabaseWrapper,
        heads: Sequence[Head],
        limit: int,
        claimant: Claimant,
    ) -> Rows:
        """
        Claim the first ``limit`` of these heads that can still be claimed; return their rows.

        The statement checks again what the snapshot saw. Each task must be READY, no suspect and
        in one of the heads' queues. Its priority must be no lower than that of the last head.
        """

    def claiming(self, connection: BaseDatabaseWrapper) -> str:
        """
        Return the SET clause of a claim. ``claiming_params`` returns its parameters.

        A number that was edited by hand must not fail the claim of other tasks. So the SQL brings
        each number within its bounds, and the task fails as malformed when it is run.
        """
        seconds = f"CASE WHEN max_run_time > 0 AND max_run_time <= {MAX_DURATION_SECONDS} "
        seconds += "THEN max_run_time ELSE %s END"
        return f"""
            status = 'RUNNING',
            locked_by_id = %s,
            last_worker = %s,
            locked_at = {self.clock(connection)},
            deadline_at = {self.clock(connection, seconds)},
            unique_key = CASE WHEN unique_while = 'waiting' THEN NULL ELSE unique_key END,
            token = CASE WHEN token < {TOKEN_CEILING} THEN token ELSE {TOKEN_CEILING} END + %s,
            attempts = CASE WHEN attempts < {COUNT_MAX} THEN attempts + 1 ELSE {COUNT_MAX} END
        """

    def claiming_params(self, claimant: Claimant) -> list[Any]:
        return [*claimant, token_jump()]

    def claim_notified(
        self,
        connection: BaseDatabaseWrapper,
        queue: str,
        limit: int,
        claimant: Claimant,
    ) -> Rows:
        """
        Claim up to ``limit`` tasks of a queue that a notification named; return their rows.

        Return no rows if the database has no notifications.
        """
        return []

    @abstractmethod
    def promote(self, candidates: QuerySet[Any]) -> int:
        """
        Make these SCHEDULED tasks READY; return how many.

        Skip the tasks that another transaction is changing right now, where the database can.
        """

    # Finish

    @abstractmethod
    def finish(self, connection: BaseDatabaseWrapper, rows: Rows) -> dict[int, str]:
        """
        Write the outcomes.

        Return the new status by id of each task that still belonged to its attempt.
        """

    def finishing(self, connection: BaseDatabaseWrapper, column: str = "") -> str:
        return FINISH.format(
            column=column,
            clock=self.clock(connection),
            ended=self.clock(connection, "-o.age"),
            started=self.clock(connection, "-(o.age + o.duration)"),
            next=self.clock(connection, "o.delay - o.age"),
        )

    # Foreign keys

    def references(self, connection: BaseDatabaseWrapper, table: str) -> list[Reference]:
        """
        Return the foreign keys that refer to this table.

        Return none if a refused deletion raises an error that names the foreign key. See
        ``refused_by``.
        """
        return []

    def refused_by(self, error: IntegrityError) -> Reference | None:
        """Return the foreign key that this error is about, or None unless it gives all names."""
        return None

    def refusing_table(self, error: IntegrityError) -> str:
        """Return the table whose rows refused a deletion, or an empty string."""
        reference = self.refused_by(error)
        return reference.label if reference else ""

    def check_now(self, connection: BaseDatabaseWrapper, references: Iterable[Reference]) -> None:
        """Raise IntegrityError now if these foreign keys would raise it at COMMIT."""
        return

    # Statistics

    @abstractmethod
    def add_stats(self, connection: BaseDatabaseWrapper, rows: Sequence[Sequence[Any]]) -> None:
        """Add these rows of STATS_COLUMNS to the stored rows, in the caller's transaction."""

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
    """
    Return the seconds from UTC to this zone at an instant.

    The zone's wall clock shows some hours twice, so a wall time would be ambiguous.
    """
    offset = instant.astimezone(zone).utcoffset()
    return round(offset.total_seconds()) if offset else 0
