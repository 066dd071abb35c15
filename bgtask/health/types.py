"""Define the state of the queues and of their workers as plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Level(StrEnum):
    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "fail"

    @property
    def word(self) -> str:
        """Return the word that monitoring tools have used for decades: OK, WARNING or CRITICAL."""
        return _WORDS[self]

    @property
    def rank(self) -> int:
        """Return 0 for PASS, 1 for WARN and 2 for FAIL."""
        return _RANKS[self]

    @staticmethod
    def worst(levels: Iterable[Level]) -> Level:
        return max(levels, key=_RANKS.__getitem__, default=Level.PASS)


_WORDS = {Level.PASS: "OK", Level.WARN: "WARNING", Level.FAIL: "CRITICAL"}
_RANKS = {level: rank for rank, level in enumerate(Level)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """A reason why something is not well."""

    level: Level
    # oldest_ready_age, failure_ratio, no_worker, stuck, silent or schedule_late
    measure: str
    queue: str = ""  # Empty if it concerns no queue in particular.
    observed: float
    limit: float
    # A function, because a thousand queues may be behind, and only some reasons are shown.
    describe: Callable[[], str] = field(compare=False, repr=False)

    @property
    def text(self) -> str:
        """Return a clause in the active language: “mail has been behind since 11:57: …”."""
        return self.describe()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """The running tasks that will not end by themselves. Each is counted once."""

    overdue: int = 0  # Past their deadline.
    silent: int = 0  # Claimed by a worker whose lease has expired.
    lost: int = 0  # Claimed by a worker that was declared dead.

    @property
    def total(self) -> int:
        return self.overdue + self.silent + self.lost


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueHealth:
    """The state of one queue. All ages and durations are in seconds."""

    name: str
    paused: bool = False
    ready: int = 0
    # The oldest task that could start now: it is READY, its queue is not paused, and its name is
    # not on hold. The values are 0 and None if there is no such task.
    oldest_ready_age: float = 0.0
    oldest_ready_since: datetime | None = None
    # The age has been above the limit to warn at since then. None: it isn't, or this is unknown.
    behind_since: datetime | None = None
    scheduled: int = 0  # Including those that are retrying.
    retrying: int = 0  # Scheduled because an attempt failed: see ``retry_condition``.
    running: int = 0
    held: int = 0
    max_running_seconds: float = 0.0
    stuck: Stuck = Stuck()
    # Attempts that ended in the window, and how many of them failed, for good or not. If a service
    # that the tasks need has an outage, days may pass before the first task has no attempt left.
    window: float = 0.0
    finished_window: int = 0
    failed_window: int = 0
    failure_ratio: float | None = None  # None: too few attempts ended.
    throughput_per_minute: float = 0.0  # Attempts that ended in the last five minutes.
    served_by: int = 0  # Living workers that claim tasks of this queue.
    status: Level = Level.PASS
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The workers that were not declared dead."""

    alive: int = 0
    stopping: int = 0
    silent: int = 0  # Their lease has expired.
    heartbeat_age_max: float = 0.0  # Greatest seconds since a last heartbeat, of all three.
    threads: int = 0  # Of the workers that are alive.
    busy: int = 0  # Tasks that run in workers that are alive or stopping.


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """A task name on hold, or a paused queue, with who stopped it and why."""

    name: str
    since: datetime
    until: datetime | None = None
    by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LateSchedule:
    """A schedule whose next slot no worker has decided in time."""

    key: str
    since: datetime  # The slot.


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The state of all queues and workers at one moment, by the clock of the database."""

    generated_at: datetime
    window: float  # Seconds, for queues that have no window of their own.
    queues: tuple[QueueHealth, ...] = ()  # By name.
    workers: Workers = Workers()
    # Tasks that are FAILED now, of any age and queue, counted up to 10,000. None: not counted,
    # because some queues were asked for by name.
    failed_tasks: int | None = None
    failed_tasks_at_least: bool = False  # There are more than were counted.
    holds: tuple[Stopped, ...] = ()  # By name.
    pauses: tuple[Stopped, ...] = ()  # By name. Includes queues that were not asked for.
    # By slot. None: not asked for, because some queues were asked for by name.
    late_schedules: tuple[LateSchedule, ...] | None = None
    status: Level = Level.PASS
    reasons: tuple[Reason, ...] = ()  # Including those of the queues, the worst first.
    summary: str = ""  # For people, in the active language: “mail has been behind since 11:57: …”

    @property
    def sentence(self) -> str:
        """Return level and summary, as in ``CRITICAL: mail has been behind since 11:57: …``."""
        return f"{self.status.word}: {self.summary}"

    @property
    def failed_number(self) -> str:
        """Return the number of FAILED tasks for people: “301”, or “10,000+” if there are more."""
        return f"{self.failed_tasks or 0:,}{'+' if self.failed_tasks_at_least else ''}"

    @property
    def stuck(self) -> Stuck:
        return Stuck(
            overdue=sum(queue.stuck.overdue for queue in self.queues),
            silent=sum(queue.stuck.silent for queue in self.queues),
            lost=sum(queue.stuck.lost for queue in self.queues),
        )

    def total(self, count: str) -> int:
        """Return the sum over the queues, as in ``health.total("ready")``."""
        return sum(getattr(queue, count) for queue in self.queues)

    @property
    def throughput_per_minute(self) -> float:
        return sum(queue.throughput_per_minute for queue in self.queues)

    @property
    def oldest_ready_age(self) -> float:
        return max((queue.oldest_ready_age for queue in self.queues), default=0.0)

    @property
    def max_running_seconds(self) -> float:
        return max((queue.max_running_seconds for queue in self.queues), default=0.0)
