"""
Places at which a worker can be killed: the boundaries of each move.

``BGTASK_TEST_FAILPOINT="after:finish=kill@3"`` kills the process with SIGKILL the third time that
the outcomes of a batch have been written. ``after:finish:UPDATE bgtask_task=kill@3`` does so the
third time that such a statement has been executed in there. ``before:finish:COMMIT=kill@3`` does so
the third time that its transaction is about to be committed. The product contains nothing of this:
its functions are wrapped in the processes that have this app.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import DataError, OperationalError, connection

VARIABLE = "BGTASK_TEST_FAILPOINT"


def _places() -> dict[str, tuple[Any, *tuple[str, ...]]]:
    """Return the owner of each place, a class or a module, and its functions."""
    from bgtask.lifecycle import claim, enqueue, finish, promote, rescue
    from bgtask.models import Worker
    from bgtask.worker import executor
    from bgtask.worker.completer import Completer
    from bgtask.worker.heartbeat import Heartbeat
    from bgtask.worker.pool import Pool

    return {
        "snapshot": (claim, "take_snapshot"),
        "promote": (promote, "promote_due"),
        "claim": (claim, "claim_these", "claim_heads", "claim_notified"),
        "hand_out": (Pool, "submit"),
        "run": (executor, "execute"),
        "put": (Completer, "put"),
        "finish": (finish, "finish_attempts"),
        "release": (claim, "release_claims"),
        "set_aside": (claim, "set_aside_claims"),
        "rescue": (rescue, "rescue_tasks"),
        "declare_dead": (type(Worker.objects.all()), "declare_dead"),
        "beat": (Heartbeat, "beat"),
        "heartbeat": (Heartbeat, "_try_to_beat"),
        "enqueue": (enqueue, "store_task"),
    }


# Each boundary of claim, run and finish, in the order in which a task passes them.
SWEEP = (
    "before:claim", "after:claim", "after:hand_out", "before:run", "after:run", "before:put",
    "after:put", "before:finish", "after:finish",
)  # fmt: skip
# Boundaries inside of the transaction that writes a failure and its row of history.
INSIDE_FINISH = (
    "after:finish:UPDATE bgtask_task", "after:finish:INTO bgtask_attempt", "before:finish:COMMIT",
)  # fmt: skip
# Boundaries inside of the transaction of a rescue, and of a claim (only MariaDB needs one).
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
                _replace(owner, name, _wrapped_inside(function, when, words, hit))
            else:
                _replace(owner, name, _wrapped(function, when, hit))


def _replace(owner: Any, name: str, wrapper: Any) -> None:
    """Set the attribute, also in the modules that have imported a function of a module."""
    function = getattr(owner, name)
    setattr(owner, name, wrapper)
    if inspect.ismodule(owner):
        for module in [sys.modules[name] for name in sys.modules if name.startswith("bgtask.")]:
            if getattr(module, name, None) is function:
                setattr(module, name, wrapper)


def _hit(action: str, times: str) -> Callable[[], None]:
    """Return a function that counts its calls and acts at those that ``times`` names."""
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
    """Return the function, wrapped: call ``hit`` at its statements that contain these words."""

    def note(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        said = sql.replace('"', "").replace("`", "")
        return (_wrapped(execute, when, hit) if words in said else execute)(sql, *args)

    @contextmanager
    def commits_noted() -> Iterator[None]:
        """Wrap commit(), which is a call, not a statement. Each thread has its own connection."""
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
