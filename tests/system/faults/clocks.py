"""Wrong clocks of the host and of the database, in the processes that have this app."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path
from typing import Any

from django.utils import timezone

HOST = "BGTASK_TEST_HOST_CLOCK"  # Seconds by which the clock is ahead.
DATABASE = "BGTASK_TEST_DATABASE_CLOCK"  # A file with the seconds.


def install() -> None:
    if offset := os.environ.get(HOST):
        _put_host_ahead(float(offset))
    if path := os.environ.get(DATABASE):
        from bgtask.db.operations import QueueOperations

        kinds: list[type] = [QueueOperations, *QueueOperations.__subclasses__()]
        for kind in kinds:
            if "clock" in vars(kind):
                _put_database_ahead(kind, Path(path))


def _put_host_ahead(offset: float) -> None:
    really, now = time.time, timezone.now
    time.time = lambda: really() + offset
    timezone.now = lambda: now() + datetime.timedelta(seconds=offset)


def _put_database_ahead(kind: type, path: Path) -> None:
    right = kind.clock  # type: ignore[attr-defined]

    def wrong(self: Any, connection: Any, seconds: str | None = None) -> str:
        ahead = path.read_text() or "0"
        return str(right(self, connection, f"({seconds or 0}) + ({ahead})"))

    kind.clock = wrong  # type: ignore[attr-defined]
