"""What the workers of the fault suite run; each tells the execution log that it did."""

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
from tests import execution_log


def _noted():
    task = current_task()
    return execution_log.execution(task.id, task.token, task.attempt)


@background
def quick(number=0):
    with _noted():
        return number


@background
def hold_interpreter(seconds):
    """Call a C function that lets no other thread of its process run."""
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


@background(unique="only one:{number}", backoff=1)
def only_one(number):
    with _noted():
        time.sleep(0.05)


@background(max_attempts=3, backoff=1)
def hopeless():
    with _noted():
        raise RuntimeError("never any luck")


@background(max_attempts=1)
def ask(sql):
    """Return what the database answers to this task."""
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


@background(backoff=1)
def query():
    """Use the queue's own database, as most tasks do."""
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


@background(max_attempts=3, backoff=0.1)
def stumble(times):
    """Fail so often, and then succeed, if there is an attempt left for it."""
    with _noted():
        if current_task().attempt <= times:
            raise RuntimeError("not yet")


@background(max_attempts=2, backoff=0.1)
def wait_for(path, fail=False):
    """Run until there is a file of this name, and then fail, if told to."""
    with _noted():
        while not os.path.exists(path):
            time.sleep(0.01)
        if fail:
            raise RuntimeError("as told")


@background(max_attempts=1)
def write_long(path, length, fail=False):
    """Leave a long return value or a long message behind, once there is a file of this name."""
    with _noted():
        while not os.path.exists(path):
            time.sleep(0.05)
        text = "".join(random.choices("0123456789abcdef", k=length))
        if fail:
            raise RuntimeError(text)
        return text


# What takes more than there is

BLOCK = 64 << 20  # Bytes. What is that large, malloc asks the system for, and gives back at once.


@background(max_attempts=2, backoff=0.1)
def hold_memory(blocks, fail=False):
    """Hold so much at once, and let go of it at the end, which may be a bad one."""
    with _noted():
        taken = []
        for _ in range(blocks):
            taken.append(b"x" * BLOCK)
        if fail:
            raise RuntimeError("so much for nothing")


@background(max_attempts=2, backoff=0.1)
def cling(seconds):
    """Take all the memory there is, to the last bytes, and hold it for a while."""
    with _noted():
        taken, size, room = [], BLOCK, 16 * BLOCK
        while size > 64 and room > 0:  # Not all of the machine's, where nothing limits it.
            try:
                taken.append(b"x" * size)
                room -= size
            except MemoryError:
                size //= 2
        time.sleep(seconds)
