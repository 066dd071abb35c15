"""
Places in a worker's work at which it may be made to die: the boundaries of each move.

``BGTASK_TEST_FAILPOINT="after:finish=kill@3"`` kills the process with SIGKILL the third time that
the outcomes of a batch have been written; ``after:finish:UPDATE bgtask_task=kill@3`` the third time
that such a statement has been executed in there, and ``before:finish:COMMIT=kill@3`` the third time
that its transaction is about to be committed. Nothing of this is in the product: its public methods
are wrapped, in the processes that have this app.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import DataError, OperationalError, connection

VARIABLE = "BGTASK_TEST_FAILPOINT"


def _places() -> dict[str, tuple[Any, *tuple[str, ...]]]:
    """Return for each place its owner and the methods that share it."""
    from bgtask.models import Task, Worker
    from bgtask.runner import heartbeat, pool
    from bgtask.runner.completer import Completer

    tasks, workers = type(Task.objects.all()), type(Worker.objects.all())
    return {
        "outlook": (tasks, "outlook"),
        "promote": (tasks, "promote"),
        "claim": (tasks, "take", "claim_heads", "claim_news"),
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
# … and those inside of transactions: a failure is written with its row of history …
INSIDE_FINISH = (
    "after:finish:UPDATE bgtask_task", "after:finish:INTO bgtask_attempt", "before:finish:COMMIT",
)  # fmt: skip
# … and so is what is taken back. A claim is one only on MariaDB.
INSIDE_RESCUE = (
    "after:rescue:UPDATE bgtask_task", "after:rescue:INTO bgtask_attempt", "before:rescue:COMMIT",
)  # fmt: skip
INSIDE_CLAIM = (
    "after:claim:FOR UPDATE", "after:claim:UPDATE bgtask_task", "before:claim:COMMIT",
)  # fmt: skip


def install() -> None:
    for wanted in filter(None, os.environ.get(VARIABLE, "").split(",")):
        where, _, what = wanted.partition("=")
        when, place, words = (*where.split(":"), "")[:3]
        action, _, times = what.partition("@")
        owner, *names = _places()[place]
        hit = _hit(action, times)
        for name in names:
            function = getattr(owner, name)
            if words:
                setattr(owner, name, _wrapped_inside(function, when, words, hit))
            else:
                setattr(owner, name, _wrapped(function, when, hit))


def _hit(action: str, times: str) -> Callable[[], None]:
    """What is called each time, and acts when its time has come."""
    counter = itertools.count(1)
    first, _, last = times.partition("-")
    hits = range(int(first or 1), int(last or first or 1) + 1)
    lock = threading.Lock()

    def hit() -> None:
        with lock:
            number = next(counter)
        if number in hits:
            _ACTIONS[action]()

    return hit


def _wrapped(function: Callable[..., Any], when: str, hit: Callable[[], None]) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            hit()
        result = function(*args, **kwargs)
        if when == "after":
            hit()
        return result

    return wrapper


def _wrapped_inside(
    function: Callable[..., Any], when: str, words: str, hit: Callable[[], None]
) -> Any:
    """Hit at the statements that this function executes and that have these words."""

    def note(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        said = sql.replace('"', "").replace("`", "")
        return (_wrapped(execute, when, hit) if words in said else execute)(sql, *args)

    @contextmanager
    def commits_noted() -> Iterator[None]:
        """To commit is no statement, but a call. The connection is this thread's own."""
        connection.commit = _wrapped(connection.commit, when, hit)  # type: ignore[method-assign]
        try:
            yield
        finally:
            del connection.commit

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with commits_noted() if words == "COMMIT" else connection.execute_wrapper(note):
            return function(*args, **kwargs)

    return wrapper


def _raise(error: BaseException) -> None:
    raise error


_ACTIONS: dict[str, Callable[[], None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "disk_full": lambda: _raise(OperationalError("No space left on device")),
    "crowded": lambda: _raise(OperationalError("sorry, too many clients already")),
    "deadlock": lambda: _raise(OperationalError("Deadlock found when trying to get lock")),
    "no_memory": lambda: _raise(MemoryError()),
    "refused": lambda: _raise(DataError("the database does not want this")),
    "exit": lambda: _raise(SystemExit("the thread ends")),
    "broken": lambda: _raise(RuntimeError("a bug")),
}
