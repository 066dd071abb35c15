"""Several worker processes, and one that only watches over them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import Error, connections

from bgtask.conf import get_settings
from bgtask.dialects import dialect_of
from bgtask.models import Task, Worker
from bgtask.models.manager import database_time
from bgtask.models.outcome import Outcome
from bgtask.runner.alarm import Alarm
from bgtask.runner.announcer import announce
from bgtask.runner.child import OVER, REFUSED, Child
from bgtask.runner.primary import Primary
from bgtask.runner.statistics import Statistics

logger = logging.getLogger("bgtask")

SHORT_LIFE = 10.0  # Seconds; a child that ends sooner is replaced after a growing wait.
LONGEST_WAIT = 30.0
STARTING = 60.0  # What a child may take to import the project and report for duty.
SLACK = 2.0  # Seconds beyond GRACE_PERIOD before children are killed.
HUNG = "it gave no sign of life for its lease, and was killed"
OVERSTAYED = "it did not stop in time, and was killed"


@dataclass(slots=True)
class _Slot:
    child: Child | None = None
    failures: int = 0
    not_before: float = 0.0
    done: bool = False


class Supervisor:
    """
    Spawns processes (never forks one that has connections), replaces those that end or hang, and
    takes back at once what a dead one held. It has no connection while it waits.

    ``argv`` is the command line of this process; a child's is the same, for one process, and for
    what is left of ``duration``, if that is not 0.
    """

    def __init__(self, argv: Sequence[str], processes: int, duration: float = 0.0) -> None:
        self._command = [*_interpreter(argv), *_without_processes(argv[1:])]
        self._end = time.monotonic() + duration if duration > 0 else None
        self._undertakers: list[threading.Thread] = []
        self._slots = [_Slot() for _ in range(processes)]
        self._alarm = Alarm()
        self._stopping = False
        self._kill_at: float | None = None
        self._clean = True

    def run(self) -> bool:
        """Until stopped or all children are done; False if one ended badly at the stop."""
        with Primary(Task.objects.all().db).comparing():  # Beginning with the connection that is.
            connections.close_all()
            return self._run()

    def _run(self) -> bool:
        previous = signal.signal(signal.SIGCHLD, lambda *_: self._alarm.ring())
        logger.info("Supervisor %d runs %d processes.", os.getpid(), len(self._slots))
        try:
            while not all(slot.done for slot in self._slots):
                for slot in self._slots:
                    self._look_after(slot)
                self._alarm.sleep(self._pause())
        finally:
            signal.signal(signal.SIGCHLD, previous)
            for slot in self._slots:
                if slot.child is not None:
                    slot.child.process.kill()
                    slot.child.process.wait()
                    slot.child.close()
            end = time.monotonic() + get_settings().grace_period
            for thread in self._undertakers:
                thread.join(max(end - time.monotonic(), 0.0))
            self._alarm.close()
        return self._clean

    def stop(self) -> None:
        """Tell the children to stop; a second call kills them. Safe in a signal handler."""
        if self._stopping:
            self._kill_at = 0.0
        else:
            self._kill_at = time.monotonic() + get_settings().grace_period + SLACK
        self._stopping = True
        self._alarm.ring()

    def _look_after(self, slot: _Slot) -> None:
        child = slot.child
        if child is None:
            if self._stopping or (self._end is not None and time.monotonic() >= self._end):
                slot.done = True
            elif not slot.done and time.monotonic() >= slot.not_before:
                try:
                    slot.child = self._spawn()
                except OSError as error:
                    logger.error("A process could not be started: %s.", error)
                    _put_off(slot)
            return
        child.listen()
        if child.process.poll() is not None:
            child.listen()
            slot.child = None
            self._bury(slot, child)
        elif self._stopping:
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                child.killed_for = child.killed_for or OVERSTAYED
                child.process.kill()
            elif child.process.stdin is not None:
                # The end of its standard input tells a child to stop, as the end of us would.
                child.process.stdin.close()
                child.process.stdin = None
        elif child.silence() > max(get_settings().lease, STARTING if not child.workers else 0.0):
            child.killed_for = HUNG
            child.process.kill()

    def _spawn(self) -> Child:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        now = time.monotonic()
        command = [*self._command, f"--supervised={writer}"]
        if self._end is not None:
            command.append(f"--duration={max(self._end - now, 0.001):.3f}")
        try:
            process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.PIPE,
                pass_fds=[writer],
                start_new_session=True,  # Ctrl-C is for us; we tell them.
            )
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        return Child(process, reader, now, now)

    def _bury(self, slot: _Slot, child: Child) -> None:
        status = child.process.returncode
        child.close()
        if status == 0 and child.last_words:
            slot.failures = 0
            slot.done = self._stopping or child.last_words == OVER
            return
        if child.last_words == REFUSED:
            # The child has logged why.
            self._clean = False
            slot.done = True
            if not self._stopping:
                self.stop()
            return
        # Whatever its status: a task may have ended its process by _exit(0).
        reason = child.killed_for or _reason(status)
        logger.error("Process %d ended: %s.", child.process.pid, reason)
        self._clean = self._clean and not self._stopping
        if child.workers:
            self._take_back(child.workers, reason)
        if time.monotonic() - child.started < SHORT_LIFE:
            _put_off(slot)
        else:
            slot.failures = 0

    def _take_back(self, workers: set[int], reason: str) -> None:
        # In a thread: neither a database that is away nor somebody's receiver of a signal must
        # keep us from watching over the others.
        self._undertakers = [thread for thread in self._undertakers if thread.is_alive()]
        thread = threading.Thread(
            target=_take_back, args=(workers, reason), name="bgtask-undertaker", daemon=True
        )
        thread.start()
        self._undertakers.append(thread)

    def _pause(self) -> float:
        if os.getpid() == 1:
            _reap(self._slots)
        now = time.monotonic()
        vacant = (slot for slot in self._slots if slot.child is None and not slot.done)
        waits = [slot.not_before - now for slot in vacant]
        if self._stopping:
            waits.append(0.2)
        return min([1.0, *(max(wait, 0.05) for wait in waits)])


def _put_off(slot: _Slot) -> None:
    slot.failures += 1
    slot.not_before = time.monotonic() + min(2.0 ** (slot.failures - 1), LONGEST_WAIT)


def _take_back(workers: set[int], reason: str) -> None:
    """Nobody knows sooner than its parent that a process is dead, nor why."""
    rescued: list[Outcome] = []
    connection = connections[Task.objects.all().db]
    try:
        # In one transaction: a sibling that saw it dead first would take its tasks back without
        # knowing the reason.
        with dialect_of(connection).transaction(connection):
            theirs = Worker.objects.filter(pk__in=workers)
            if reason == OVERSTAYED:
                theirs.note_stop()  # It may have had no time to say so.
            if theirs.declare_dead():
                Task.objects.filter(locked_by__in=workers).rescue(reason, rescued.extend)
        _tell(rescued)
    except Error as error:
        logger.warning("Its tasks will be rescued when its lease ends: %s", error)
    except Exception:  # Receivers and handlers of the log are the project's.
        logger.exception("What became of its tasks could not be announced.")
    finally:
        connections.close_all()


def _tell(outcomes: list[Outcome]) -> None:
    """As the worker would have, which is no more."""
    if not outcomes:
        return
    ended = [(outcome, str(outcome.status)) for outcome in outcomes]
    try:
        announce(ended)
    finally:
        alias = Task.objects.all().db
        statistics = Statistics()
        statistics.set_clock(database_time(alias))
        statistics.add(ended)
        statistics.write(alias, statistics.take())


def _reap(slots: Sequence[_Slot]) -> None:
    """As the first process of a container, bury the orphans of others too."""
    ours = {slot.child.process.pid for slot in slots if slot.child is not None}
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid in ours:
                break  # Its own poll() asks for it.
            os.waitpid(ended.si_pid, 0)


def _reason(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    number = -status
    name = signal.Signals(number).name if number in signal.Signals._value2member_map_ else ""
    hint = ", perhaps out of memory" if number == signal.SIGKILL else ""
    return f"killed by signal {number} {name}{hint}".strip()


def _interpreter(argv: Sequence[str]) -> list[str]:
    """How this command was started: ``manage.py``, ``python -m django`` or an executable."""
    main = sys.modules["__main__"]
    if main.__spec__ is not None and main.__spec__.name:
        name = main.__spec__.name.removesuffix(".__main__")
        return [sys.executable, "-m", name]
    return [sys.executable, argv[0]]


def _without_processes(arguments: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--processes":
            skip = True
        elif not argument.startswith("--processes="):
            kept.append(argument)
    return kept
