"""Where to begin the next claim: behind the index entries of what was claimed before."""

from __future__ import annotations

import time
from typing import Any

LIFETIME = 1.0  # Seconds; also how long something more pressing may be overlooked.
CLAIMS = 200


class Hints:
    """
    The key of the last claimed task, by queue.

    While somebody holds an old snapshot, nothing that was claimed since can be removed from the
    index, and a scan from its beginning would step over all of it, each time more.
    """

    def __init__(self) -> None:
        self._hints: dict[str, tuple[tuple[Any, ...], float, int]] = {}

    def get(self, queue: str) -> tuple[Any, ...] | None:
        if queue not in self._hints:
            return None
        key, since, claims = self._hints[queue]
        if claims >= CLAIMS or time.monotonic() > since + LIFETIME:
            del self._hints[queue]
            return None
        return key

    def note(self, queue: str, key: tuple[Any, ...]) -> None:
        _, since, claims = self._hints.get(queue, (None, time.monotonic(), 0))
        self._hints[queue] = (key, since, claims + 1)

    def drop(self, queue: str) -> None:
        self._hints.pop(queue, None)

    def clear(self) -> None:
        self._hints.clear()
