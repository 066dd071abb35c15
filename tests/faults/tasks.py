"""What the workers of the fault suite run; each tells the ledger that it did."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

from django.db import DatabaseError, connection, connections, transaction
from django.utils import timezone, translation

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
def hold_interpreter(seconds):
    """A call of C that lets no other thread of its process run."""
    with _noted():
        ctypes.PyDLL(None).sleep(seconds)


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


@background
def crash(how):
    with _noted():
        match how:
            case "segfault":
                ctypes.string_at(0)
            case "abort":
                os.abort()


@background
def wait_in_database(seconds):
    with _noted(), connection.cursor() as cursor:
        sleep = "pg_sleep" if connection.vendor == "postgresql" else "sleep"
        cursor.execute(f"SELECT {sleep}({seconds})")
        if connection.vendor == "mysql" and cursor.fetchone()[0]:
            raise RuntimeError("the sleep was cut short")


# What a task may leave behind in the thread and the process that ran it


@background(max_attempts=1)
def misbehave(how):
    with _noted():
        _MISBEHAVIOURS[how]()


def _raise(error):
    raise error


def _leave_a_transaction_open():
    transaction.atomic().__enter__()
    connection.cursor().execute("SELECT 1")


def _break_a_savepoint():
    with transaction.atomic(), contextlib.suppress(DatabaseError):
        connection.cursor().execute("SELECT no_such_column FROM bgtask_task")


def _close_behind_django():
    connection.ensure_connection()
    connection.connection.close()


def _fork():
    if os.fork() == 0:
        return  # The child goes on as if it were the worker.
    os.wait()


def _leave_children_and_threads():
    subprocess.Popen(["sleep", "60"])
    threading.Thread(target=time.sleep, args=(60,)).start()


def _change_the_process():
    os.chdir("/")
    os.umask(0)
    os.environ["TZ"] = "America/New_York"
    time.tzset()
    socket.setdefaulttimeout(0.001)
    logging.disable(logging.CRITICAL)
    timezone.activate("Pacific/Kiritimati")
    translation.activate("de")


_MISBEHAVIOURS = {
    "SystemExit": lambda: sys.exit(3),
    "KeyboardInterrupt": lambda: _raise(KeyboardInterrupt()),
    "GeneratorExit": lambda: _raise(GeneratorExit()),
    "CancelledError": lambda: _raise(asyncio.CancelledError()),
    "StopIteration": lambda: _raise(StopIteration()),
    "BaseException": lambda: _raise(type("Odd", (BaseException,), {})()),
    "MemoryError": lambda: bytearray(1 << 50),
    "RecursionError": lambda: _raise(RecursionError()),
    "NUL": lambda: _raise(RuntimeError("a\x00b \ud800 \x1b[31m \u202e 🐍")),
    "transaction": _leave_a_transaction_open,
    "savepoint": _break_a_savepoint,
    "autocommit": lambda: transaction.set_autocommit(False),
    "close": lambda: connection.close(),
    "close_all": lambda: connections.close_all(),
    "raw_close": _close_behind_django,
    "fork": _fork,
    "children": _leave_children_and_threads,
    "process": _change_the_process,
}
MISBEHAVIOURS = tuple(_MISBEHAVIOURS)


# What takes more than there is


@background(max_attempts=2, backoff=0.1)
def hoard(kilobytes):
    """Take memory, so much at a time, until there is no more."""
    with _noted():
        taken = []
        while True:
            taken.append(b"x" * (kilobytes << 10))
