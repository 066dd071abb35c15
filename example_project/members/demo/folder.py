"""Empty the folder of the demo at its start, and keep other demos out of it."""

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
    Lock the folder against other demos, and empty it.

    Raise CommandError if it holds files that no demo left there, or if another demo uses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / LOCK
    if not lock.exists() and any(folder.iterdir()):
        raise CommandError(
            f"{short(folder)} holds files that are not the demo's, which would remove them. "
            "Set SITE_DIR to another folder."
        )
    # Use a database as the lock. That works on every system, and the lock is released when the
    # process ends.
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
    """Return the path relative to the current folder, if it is below that folder."""
    here = Path.cwd()
    return os.path.relpath(path, here) if path.is_relative_to(here) else str(path)
