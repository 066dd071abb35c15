"""When a suspect may be run: it was in a worker's hands when that died, so it runs alone."""

from __future__ import annotations

import time

WAIT = 60.0  # Seconds after which others must make room for suspects …
TIME = 1.0  # … and how long for, one after the other.


class Suspects:
    """
    A process runs one while it runs nothing else: when it is idle, otherwise at least once a
    minute, after letting its threads drain. So its next death convicts the right one.
    """

    def __init__(self) -> None:
        self.alone = False  # One is being run.
        self._since: float | None = None
        self._room_until = 0.0

    def want_room(self, waiting: bool, idle: bool) -> bool:
        """
        Is nothing else to be claimed now?

        ``waiting``: there are some to run; ``idle``: there is nothing else to do.
        """
        if not waiting:
            self._since = None
            return False
        now = time.monotonic()
        if self._since is None:
            self._since = now
        return idle or now < self._room_until or now > self._since + WAIT

    def claimed(self, found: bool) -> None:
        now = time.monotonic()
        if now > self._room_until:
            self._room_until = now + TIME
        self._since = now
        self.alone = found
