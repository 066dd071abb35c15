"""
Record which thread ran which task, outside of the queue, in a fraction of a microsecond.

Each process has a file of its own, which is mapped into memory. To write there needs no system
call, which would release the interpreter's lock to other threads. What is written outlives the
process.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

DIRECTORY = "BGTASK_BENCHMARK_PROBE"
CAPACITY = 2_000_000

_RECORD = struct.Struct("<qqdd")
_opening = threading.Lock()


@dataclass(frozen=True, slots=True)
class Sight:
    number: int
    thread: int
    start: float  # time.monotonic(), which all processes of a machine share.
    end: float


def saw(number: int, start: float) -> None:
    with _opening:  # Else threads that start together would all write at the first place.
        pages, place = _file()
    _RECORD.pack_into(
        pages,
        next(place) * _RECORD.size,
        number,
        threading.get_native_id(),
        start,
        time.monotonic(),
    )


@cache
def _file() -> tuple[mmap.mmap, count[int]]:
    path = Path(os.environ[DIRECTORY], str(os.getpid()))
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.truncate(file, CAPACITY * _RECORD.size)  # Sparse: only what is written takes space.
    return mmap.mmap(file, CAPACITY * _RECORD.size), count()


class Probe:
    """The records of all processes, in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)

    def forget(self) -> None:
        for path in self.directory.iterdir():
            path.unlink()

    def sights(self) -> list[Sight]:
        """Return all records in the order of their starts."""
        found = []
        for path in self.directory.iterdir():
            with path.open("rb") as file:
                while record := file.read(_RECORD.size):
                    sight = Sight(*_RECORD.unpack(record))
                    if not sight.end:
                        break
                    found.append(sight)
        return sorted(found, key=lambda sight: sight.start)

    def confirm(self, numbers: Iterable[int]) -> None:
        """Raise AssertionError unless each of these ran exactly once, and nothing else ran."""
        seen, wanted = Counter(sight.number for sight in self.sights()), Counter(iter(numbers))
        if seen != wanted:
            raise AssertionError(
                f"{len(list((wanted - seen).elements()))} executions are missing, and "
                f"{len(list((seen - wanted).elements()))} were one too many."
            )
