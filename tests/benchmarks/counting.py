"""An app of the workers under test: it logs a line for each query, with its thread."""

from __future__ import annotations

import os
import threading
import time

from django.db.backends.signals import connection_created

PATH = "BGTASK_BENCHMARK_QUERIES"


def _note(execute, sql, params, many, context):
    line = f"{time.monotonic()}\t{threading.current_thread().name}\t{' '.join(sql.split())[:200]}\n"
    file = os.open(os.environ[PATH], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
    return execute(sql, params, many, context)


def _watch(sender, connection, **facts):
    if _note not in connection.execute_wrappers:
        connection.execute_wrappers.insert(0, _note)  # First: others pop the last one.


if PATH in os.environ:
    connection_created.connect(_watch)
