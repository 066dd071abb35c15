"""
Start several worker processes from one process, and replace those that end.

The module is long because starting, watching and replacing share the state of each process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import Error, connections

from bgtask import clock
from bgtask.conf import get_settings
from bgtask.db import operations_for
from bgtask.db.routing import queue_alias
from bgtask.lifecycle.attempts import Outcome
from bgtask.lifecycle.rescue import rescue_tasks
from bgtask.loggers import get_logger
from bgtask.models import Task, Worker
from bgtask.worker.child import COMPLETED, REFUSED, Child
from bgtask.worker.listeners import Waker
from bgtask.worker.primary import Primary
from bgtask.worker.rescued import announce
from bgtask.worker.service import growing_pause, surviving

logger = get_logger(__name__)

MIN_CHILD_LIFE_SECONDS = 10.0  # A child that ends sooner is replaced after a growing wait.
MAX_RESTART_WAIT_SECONDS = 30.0
MAX_START_SECONDS = 60.0  # How long a child may import the project and register its worker.
KILL_DELAY_SECONDS = 2.0  # Children are killed so many seconds after GRACE_PERIOD.
HUNG = "it sent no heartbeat for longer than its lease, and was killed"
OVERSTAYED = "it did not stop in time, and was killed"


@dataclass(slots=True)
class _Slot:
    child: Child | None = None
    failures: int = 0
    not_before: float = 0.0
    done: bool = False


class Supervisor:
    """
    Start worker processes, replace those that end or hang, and rescue the tasks of dead ones.

    The supervisor starts new programs, and never forks a process that has database connections.
    It rescues the tasks of a dead child at once. It has no connection while it waits.

    ``argv`` is the command line of this process. A child gets the same one, for one process. If
    ``duration`` isn't 0, the child gets what is left of that.
    """

    def __init__(self, argv: Sequence[str], processes: int, duration: float = 0.0) -> None:
        self._command = [*_interpreter(argv), *_without_processes(argv[1:])]
        self._end = clock.monotonic() + duration if duration > 0 else None
        self._rescue_threads: list[threading.Thread] = []
        self._slots = [_Slot() for _ in range(processes)]
        self._waker = Waker()
        self._stopping = False
        self._kill_at: float | None = None
        self._clean = True

    def run(self) -> bool:
        """
        Run until stopped or until all children are done.

        Return False if a child refused the database, or failed during the stop.
        """
        with Primary(queue_alias()).comparing():  # This compares the open connection first.
            connections.close_all()
            return self._run()

    def _run(self) -> bool:
        previous = signal.signal(signal.SIGCHLD, lambda *_: self._waker.wake())
        logger.info("Supervisor %d runs %d processes.", os.getpid(), len(self._slots))
        try:
            while not all(slot.done for slot in self._slots):
                for slot in self._slots:
                    self._check_child(slot)
                self._waker.sleep(self._pause())
        finally:
            signal.signal(signal.SIGCHLD, previous)
            for slot in self._slots:
                if slot.child is not None:
                    slot.child.process.kill()
                    slot.child.process.wait()
                    slot.child.close()
            end = clock.monotonic() + get_settings().grace_period
            for thread in self._rescue_threads:
                thread.join(max(end - clock.monotonic(), 0.0))
            self._waker.close()
        return self._clean

    def stop(self) -> None:
        """
        Tell the children to stop; kill them on a second call.

        Both calls are safe in a signal handler.
        """
        if self._stopping:
            self._kill_at = 0.0
        else:
            self._kill_at = clock.monotonic() + get_settings().grace_period + KILL_DELAY_SECONDS
        self._stopping = True
        self._waker.wake()

    def _check_child(self, slot: _Slot) -> None:
        child = slot.child
        if child is None:
            if self._stopping or (self._end is not None and clock.monotonic() >= self._end):
                slot.done = True
            elif not slot.done and clock.monotonic() >= slot.not_before:
                try:
                    slot.child = self._spawn()
                except OSError as error:
                    logger.error("A process could not be started: %s.", error)
                    _back_off(slot)
            return
        child.listen()
        if child.process.poll() is not None:
            child.listen()
            slot.child = None
            self._handle_exit(slot, child)
        elif self._stopping:
            if self._kill_at is not None and clock.monotonic() >= self._kill_at:
                child.kill_reason = child.kill_reason or OVERSTAYED
                child.process.kill()
            elif child.process.stdin is not None:
                # A closed standard input tells the child to stop. It is also closed if this
                # process dies.
                child.process.stdin.close()
                child.process.stdin = None
        elif child.silence() > max(
            get_settings().lease, MAX_START_SECONDS if not child.workers else 0.0
        ):
            child.kill_reason = HUNG
            child.process.kill()

    def _spawn(self) -> Child:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        now = clock.monotonic()
        command = [*self._command, f"--supervised={writer}"]
        if self._end is not None:
            command.append(f"--duration={max(self._end - now, 0.001):.3f}")
        try:
            process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.PIPE,
                pass_fds=[writer],
                # Ctrl-C must reach only this process, which then tells the children to stop.
                start_new_session=True,
            )
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        return Child(process, reader, now, now)

    def _handle_exit(self, slot: _Slot, child: Child) -> None:
        status = child.process.returncode
        child.close()
        if status == 0 and child.exit_message:
            slot.failures = 0
            slot.done = self._stopping or child.exit_message == COMPLETED
            return
        if child.exit_message == REFUSED:
            # The child has logged why.
            self._clean = False
            slot.done = True
            if not self._stopping:
                self.stop()
            return
        # Even status 0 is an error here, because a task may have called os._exit(0).
        reason = child.kill_reason or _reason(status)
        logger.error("Process %d ended: %s.", child.process.pid, reason)
        self._clean = self._clean and not self._stopping
        if child.workers:
            self._take_back(child.workers, reason)
        if clock.monotonic() - child.started < MIN_CHILD_LIFE_SECONDS:
            _back_off(slot)
        else:
            slot.failures = 0

    def _take_back(self, workers: set[int], reason: str) -> None:
        # Use a thread. An unreachable database or a slow signal receiver must not keep this
        # process from checking the other children.
        self._rescue_threads = [thread for thread in self._rescue_threads if thread.is_alive()]
        thread = threading.Thread(
            target=_take_back, args=(workers, reason), name="bgtask-rescue", daemon=True
        )
        thread.start()
        self._rescue_threads.append(thread)

    def _pause(self) -> float:
        if os.getpid() == 1:
            _reap(self._slots)
        now = clock.monotonic()
        vacant = (slot for slot in self._slots if slot.child is None and not slot.done)
        waits = [slot.not_before - now for slot in vacant]
        if self._stopping:
            waits.append(0.2)
        return min([1.0, *(max(wait, 0.05) for wait in waits)])


def _back_off(slot: _Slot) -> None:
    slot.failures += 1
    pause = growing_pause(slot.failures, first=1.0, longest=MAX_RESTART_WAIT_SECONDS)
    slot.not_before = clock.monotonic() + pause


def _take_back(workers: set[int], reason: str) -> None:
    """
    Rescue the tasks of a dead child, and announce their outcomes.

    The supervisor learns that the child is dead, and why, before any other process does.
    """
    with surviving("The tasks of a dead process could not be rescued at once."):
        try:
            _rescue(workers, reason)
        except Error as error:
            logger.warning("Its tasks will be rescued when its lease ends: %s", error)
    connections.close_all()


def _rescue(workers: set[int], reason: str) -> None:
    rescued: list[Outcome] = []
    connection = connections[queue_alias()]
    # Use one transaction. Otherwise another worker could see the dead worker in between, and
    # rescue its tasks without knowing the reason.
    with operations_for(connection).transaction(connection):
        theirs = Worker.objects.filter(pk__in=workers)
        if reason == OVERSTAYED:
            theirs.record_stop()  # The child may have had no time to record the stop.
        if theirs.declare_dead():
            rescue_tasks(Task.objects.filter(locked_by__in=workers), reason, rescued.extend)
    announce(rescued)


def _reap(slots: Sequence[_Slot]) -> None:
    """
    Reap orphaned processes, except for the children of this supervisor.

    The kernel gives orphans to the first process of a container, so that it reaps them.
    """
    ours = {slot.child.process.pid for slot in slots if slot.child is not None}
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid in ours:
                break  # The child's own poll() reaps it.
            os.waitpid(ended.si_pid, 0)


def _reason(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    number = -status
    name = next((one.name for one in signal.Signals if one == number), "")
    hint = ", perhaps out of memory" if number == signal.SIGKILL else ""
    return f"killed by signal {number} {name}{hint}".strip()


def _interpreter(argv: Sequence[str]) -> list[str]:
    """
    Return the first arguments of the command that started this process.

    It was started by ``manage.py``, ``python -m django`` or an executable.
    """
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
