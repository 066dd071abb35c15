"""Rows that somebody else has locked, for the databases that lock rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, connections, transaction

from bgtask.models import Task

# The statements by which a session of a database refuses to wait long for a lock.
_IMPATIENCE = {
    "postgresql": "SET lock_timeout = {}000",
    "mysql": "SET SESSION innodb_lock_wait_timeout = {}",
}
_PATIENCE = {
    "postgresql": "RESET lock_timeout",
    "mysql": "SET SESSION innodb_lock_wait_timeout = DEFAULT",
}


@contextmanager
def locked_by_another(task: Task, seconds: int = 2) -> Iterator[None]:
    """
    Hold a lock on the row of the task, by a transaction of another connection.

    A statement of this connection that waits for the lock fails after so many seconds, so that a
    test that waits fails instead of hanging.
    """
    is_locked, is_over = threading.Event(), threading.Event()

    def lock() -> None:
        try:
            with transaction.atomic():
                Task.objects.select_for_update().get(pk=task.pk)
                is_locked.set()
                is_over.wait(60)
        finally:
            is_locked.set()
            connections.close_all()

    thread = threading.Thread(target=lock)
    thread.start()
    try:
        assert is_locked.wait(60)
        with connection.cursor() as cursor:
            cursor.execute(_IMPATIENCE[connection.vendor].format(seconds))
            try:
                yield
            finally:
                cursor.execute(_PATIENCE[connection.vendor])
    finally:
        is_over.set()
        thread.join()
