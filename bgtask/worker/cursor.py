"""Remember where the next claim begins: behind the index entries of the tasks claimed before."""

from __future__ import annotations

from typing import Any

from bgtask import clock

# How long a position is used. For so long, a more pressing task may be overlooked.
CURSOR_LIFETIME_SECONDS = 1.0
CURSOR_LIFETIME_CLAIMS = 200


class ClaimCursor:
    """
    The key of the last claimed task, by queue.

    While a transaction holds an old snapshot, the database can't remove the index entries of
    tasks that were claimed since. A scan from the beginning of the index would step over all of
    them, and each claim adds more.
    """

    def __init__(self) -> None:
        self._positions: dict[str, tuple[tuple[Any, ...], float, int]] = {}

    def get(self, queue: str) -> tuple[Any, ...] | None:
        if queue not in self._positions:
            return None
        key, since, claims = self._positions[queue]
        if claims >= CURSOR_LIFETIME_CLAIMS or clock.monotonic() > since + CURSOR_LIFETIME_SECONDS:
            del self._positions[queue]
            return None
        return key

    def advance(self, queue: str, key: tuple[Any, ...]) -> None:
        _, since, claims = self._positions.get(queue, (None, clock.monotonic(), 0))
        self._positions[queue] = (key, since, claims + 1)

    def drop(self, queue: str) -> None:
        self._positions.pop(queue, None)

    def clear(self) -> None:
        self._positions.clear()
