"""What the workers of the fault suite run; each tells the ledger that it did."""

from __future__ import annotations

import os
import random
import signal
import time

from django.db import connection

from bgtask import background, current_task
from tests import ledger


def _noted():
    task = current_task()
    return ledger.execution(task.id, task.token, task.attempt)


@background
def quick(number=0):
    with _noted():
        return number


@background
def nap(seconds):
    with _noted():
        time.sleep(seconds)


@background(backoff=1)
def flaky(odds):
    with _noted():
        if random.random() < odds:
            raise RuntimeError("no luck this time")


@background(max_attempts=3, backoff=1)
def hopeless():
    with _noted():
        raise RuntimeError("never any luck")


@background(backoff=1)
def query():
    """Uses the queue's own database, as most tasks do."""
    with _noted(), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone()[0]


@background
def poison():
    with _noted():
        os.kill(os.getpid(), signal.SIGKILL)


@background(max_run_time=2, max_attempts=2, backoff=1)
def overrun(seconds):
    with _noted():
        time.sleep(seconds)
