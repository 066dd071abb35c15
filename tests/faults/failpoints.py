"""
Places in a worker's work at which it may be made to die: the boundaries of each move.

``BGTASK_TEST_FAILPOINT="after:finish=kill@3"`` kills the process with SIGKILL the third time that
the outcomes of a batch have been written. Nothing of this is in the product: its public methods
are wrapped, in the processes that have this app.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from django.db import DataError, OperationalError

VARIABLE = "BGTASK_TEST_FAILPOINT"


def _places() -> dict[str, tuple[Any, str]]:
    from bgtask.models import Task, Worker
    from bgtask.runner import heartbeat, pool
    from bgtask.runner.completer import Completer

    tasks, workers = type(Task.objects.all()), type(Worker.objects.all())
    return {
        "outlook": (tasks, "outlook"),
        "promote": (tasks, "promote"),
        "claim": (tasks, "take"),
        "hand_out": (pool.Pool, "submit"),
        "run": (pool, "execute"),
        "put": (Completer, "put"),
        "finish": (tasks, "finish"),
        "release": (tasks, "release"),
        "park": (tasks, "park"),
        "rescue": (tasks, "rescue"),
        "declare_dead": (workers, "declare_dead"),
        "beat": (heartbeat.Heartbeat, "beat"),
        "enqueue": (tasks, "enqueue"),
    }


# Each boundary of claim, run and finish, in the order in which a task meets them.
SWEEP = (
    "before:claim", "after:claim", "after:hand_out", "before:run", "after:run", "before:put",
    "after:put", "before:finish", "after:finish",
)  # fmt: skip


def install() -> None:
    for wanted in filter(None, os.environ.get(VARIABLE, "").split(",")):
        where, _, what = wanted.partition("=")
        when, _, place = where.partition(":")
        action, _, times = what.partition("@")
        owner, name = _places()[place]
        setattr(owner, name, _wrapped(getattr(owner, name), when, action, times))


def _wrapped(function: Callable[..., Any], when: str, action: str, times: str) -> Any:
    counter = itertools.count(1)
    first, _, last = times.partition("-")
    hits = range(int(first or 1), int(last or first or 1) + 1)
    lock = threading.Lock()

    def hit() -> None:
        with lock:
            number = next(counter)
        if number in hits:
            _ACTIONS[action]()

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            hit()
        result = function(*args, **kwargs)
        if when == "after":
            hit()
        return result

    return wrapper


def _raise(error: BaseException) -> None:
    raise error


_ACTIONS: dict[str, Callable[[], None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "disk_full": lambda: _raise(OperationalError("No space left on device")),
    "crowded": lambda: _raise(OperationalError("sorry, too many clients already")),
    "deadlock": lambda: _raise(OperationalError("Deadlock found when trying to get lock")),
    "refused": lambda: _raise(DataError("the database does not want this")),
    "exit": lambda: _raise(SystemExit("the thread ends")),
    "broken": lambda: _raise(RuntimeError("a bug")),
}
