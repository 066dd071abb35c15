"""Decide when to run a suspect, which must run while its process runs nothing else."""

from __future__ import annotations

from bgtask import clock

MAX_ISOLATION_WAIT_SECONDS = 60.0  # After this wait, suspects run before other tasks.
ISOLATION_PERIOD_SECONDS = 1.0  # For so long, only suspects are claimed, one after the other.


class IsolationGate:
    """
    The decision whether this process runs a suspect now, or other tasks.

    A worker was holding the suspect when that worker died. The process runs a suspect when it is
    idle. Otherwise it lets its threads finish at least once a minute, and then runs a suspect.
    If the process dies, the suspect was the only task that can have caused it.
    """

    def __init__(self) -> None:
        self.running_exclusive = False  # A suspect is running.
        self._waiting_since: float | None = None
        self._exclusive_until = 0.0

    def wants_exclusive(self, waiting: bool, idle: bool) -> bool:
        """
        Return whether only suspects may be claimed now.

        ``waiting`` tells that there are suspects to run, ``idle`` that there is nothing else to do.
        """
        if not waiting:
            self._waiting_since = None
            return False
        now = clock.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        return (
            idle
            or now < self._exclusive_until
            or now > self._waiting_since + MAX_ISOLATION_WAIT_SECONDS
        )

    def claimed(self, found: bool) -> None:
        now = clock.monotonic()
        if now > self._exclusive_until:
            self._exclusive_until = now + ISOLATION_PERIOD_SECONDS
        self._waiting_since = now
        self.running_exclusive = found
