"""Where to begin the next claim: behind the index entries of what was claimed before."""

from __future__ import annotations

import time
from typing import Any

CURSOR_LIFETIME_SECONDS = 1.0  # Seconds; also how long something more pressing may be overlooked.
CURSOR_LIFETIME_CLAIMS = 200


class ClaimCursor:
    """
    The key of the last claimed task, by queue.

    While somebody holds an old snapshot, nothing that was claimed since can be removed from the
    index, and a scan from its beginning would step over all of it, each time more.
    """

    def __init__(self) -> None:
        self._positions: dict[str, tuple[tuple[Any, ...], float, int]] = {}

    def get(self, queue: str) -> tuple[Any, ...] | None:
        if queue not in self._positions:
            return None
        key, since, claims = self._positions[queue]
        if claims >= CURSOR_LIFETIME_CLAIMS or time.monotonic() > since + CURSOR_LIFETIME_SECONDS:
            del self._positions[queue]
            return None
        return key

    def advance(self, queue: str, key: tuple[Any, ...]) -> None:
        _, since, claims = self._positions.get(queue, (None, time.monotonic(), 0))
        self._positions[queue] = (key, since, claims + 1)

    def drop(self, queue: str) -> None:
        self._positions.pop(queue, None)

    def clear(self) -> None:
        self._positions.clear()
