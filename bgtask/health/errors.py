"""What is failing now, grouped by error."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroup:
    """Failed attempts of one fingerprint."""

    fingerprint: str
    error_class: str
    message: str  # First line of the newest.
    count: int  # Attempts that failed in the window.
    tasks: int  # Different tasks among them.
    failed: int  # Tasks that are FAILED with this error now, whenever that was: to be requeued.
    first_seen: datetime  # In the window.
    last_seen: datetime
    task_names: tuple[str, ...]  # The most frequent first.
    queues: tuple[str, ...]  # Likewise.
    newest_task: int  # Id of the task that failed last.


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingNow:
    since: datetime  # Later than asked for where there were too many failures to look at.
    until: datetime
    capped: bool
    groups: tuple[ErrorGroup, ...]  # The most frequent first.


def failing_now(window: float = 3600, limit: int = 20) -> FailingNow:
    """The errors of the last ``window`` seconds. Of very many attempts only the newest 10,000."""
    raise NotImplementedError
