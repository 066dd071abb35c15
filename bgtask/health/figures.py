"""What there is to say about the queues and their workers, as plain values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Level(StrEnum):
    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "fail"

    @property
    def word(self) -> str:
        """As monitoring has called it for decades."""
        return _WORDS[self]

    @staticmethod
    def worst(levels: Iterable[Level]) -> Level:
        return max(levels, key=list(Level).index, default=Level.PASS)


_WORDS = {Level.PASS: "OK", Level.WARN: "WARNING", Level.FAIL: "CRITICAL"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why something is not well."""

    level: Level
    measure: str  # oldest_ready_age, failure_ratio, no_worker, stuck or silent
    text: str  # “mail has been behind since 11:57: …”
    queue: str = ""  # Empty: it concerns no queue in particular.
    observed: float
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """Running tasks that will not end by themselves; each is counted once."""

    overdue: int = 0  # Past their deadline.
    silent: int = 0  # In the hands of a worker whose lease ran out.
    lost: int = 0  # In the hands of a worker that was declared dead.

    @property
    def total(self) -> int:
        return self.overdue + self.silent + self.lost


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueHealth:
    """One queue. All ages and durations are in seconds."""

    name: str
    paused: bool = False
    ready: int = 0
    # Of what could start now: READY, the queue not paused, the name not on hold. 0 and None
    # when there is none.
    oldest_ready_age: float = 0.0
    oldest_ready_since: datetime | None = None
    scheduled: int = 0  # Those that are retrying included.
    retrying: int = 0
    running: int = 0
    held: int = 0
    max_running_seconds: float = 0.0
    stuck: Stuck = Stuck()
    # Attempts that ended in the window, and how many of them failed, for good or not yet: after
    # an outage of what the tasks need, days may pass before the first has no attempt left.
    window: float = 0.0
    finished_window: int = 0
    failed_window: int = 0
    failure_ratio: float | None = None  # None: too few finished to say.
    throughput_per_minute: float = 0.0  # Attempts that ended, of the last five minutes.
    served_by: int = 0  # Living workers that take tasks of this queue.
    status: Level = Level.PASS
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Of the workers that were not declared dead."""

    alive: int = 0
    stopping: int = 0
    silent: int = 0  # Their lease ran out.
    heartbeat_age_max: float = 0.0  # The longest since a last heartbeat, of all three.
    threads: int = 0  # Of those alive.
    busy: int = 0  # Tasks that run with those alive or stopping.


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """A kind of task on hold, or a paused queue: by whom and why."""

    name: str
    since: datetime
    until: datetime | None = None
    by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How everything is, at one moment by the clock of the database."""

    generated_at: datetime
    window: float  # Seconds, where a queue has no window of its own.
    queues: tuple[QueueHealth, ...] = ()  # By name.
    workers: Workers = Workers()
    holds: tuple[Stopped, ...] = ()  # By name.
    pauses: tuple[Stopped, ...] = ()  # Likewise, whatever queues were asked for.
    status: Level = Level.PASS
    reasons: tuple[Reason, ...] = ()  # Of the queues too; the worst first.
    summary: str = ""  # For people, in the active language: “mail has been behind since 11:57: …”

    @property
    def sentence(self) -> str:
        """Return ``CRITICAL: mail has been behind since 11:57: …``."""
        return f"{self.status.word}: {self.summary}"

    @property
    def stuck(self) -> Stuck:
        return Stuck(
            overdue=sum(queue.stuck.overdue for queue in self.queues),
            silent=sum(queue.stuck.silent for queue in self.queues),
            lost=sum(queue.stuck.lost for queue in self.queues),
        )

    def total(self, count: str) -> int:
        """The sum over the queues: ``health.total("ready")``."""
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
