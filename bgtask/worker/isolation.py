"""When a suspect may be run: it was in a worker's hands when that died, so it runs alone."""

from __future__ import annotations

import time

MAX_ISOLATION_WAIT_SECONDS = 60.0  # Seconds after which others must make room for suspects …
ISOLATION_PERIOD_SECONDS = 1.0  # … and how long for, one after the other.


class IsolationGate:
    """
    A process runs one while it runs nothing else: when it is idle, otherwise at least once a
    minute, after letting its threads drain. So its next death convicts the right one.
    """

    def __init__(self) -> None:
        self.running_exclusive = False  # One is being run.
        self._waiting_since: float | None = None
        self._exclusive_until = 0.0

    def wants_exclusive(self, waiting: bool, idle: bool) -> bool:
        """
        Is nothing else to be claimed now?

        ``waiting``: there are some to run; ``idle``: there is nothing else to do.
        """
        if not waiting:
            self._waiting_since = None
            return False
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        return (
            idle
            or now < self._exclusive_until
            or now > self._waiting_since + MAX_ISOLATION_WAIT_SECONDS
        )

    def claimed(self, found: bool) -> None:
        now = time.monotonic()
        if now > self._exclusive_until:
            self._exclusive_until = now + ISOLATION_PERIOD_SECONDS
        self._waiting_since = now
        self.running_exclusive = found
