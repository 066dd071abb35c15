"""The folder of the demo: emptied at its start, and had by one demo at a time."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from django.core.management import CommandError

LOCK = "demo.lock"


@contextmanager
def emptied(folder: Path) -> Iterator[None]:
    """
    Have the folder alone, and with nothing in it.

    Raises CommandError if it holds what no demo has left there, or if another demo has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / LOCK
    if not lock.exists() and any(folder.iterdir()):
        raise CommandError(
            f"{short(folder)} holds files that are not the demo's, which would remove them. "
            "Set SITE_DIR to another folder."
        )
    # A database as the lock: every system has them, and they open with the process.
    with closing(sqlite3.connect(lock, timeout=0, isolation_level=None)) as holder:
        try:
            holder.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            raise CommandError(f"Another demo is running in {short(folder)}.") from None
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif not path.name.startswith(LOCK):
                path.unlink()
        yield


def short(path: Path) -> str:
    """As seen from here, where it is below."""
    here = Path.cwd()
    return os.path.relpath(path, here) if path.is_relative_to(here) else str(path)
