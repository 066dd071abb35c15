"""Test the pauses of a supervisor over an hour, on a simulated clock."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, repeat

import pytest

from bgtask.worker import supervisor
from bgtask.worker.child import COMPLETED, EXITING, Child
from bgtask.worker.supervisor import MAX_RESTART_WAIT_SECONDS, MIN_CHILD_LIFE_SECONDS, Supervisor

HOUR = 3_600.0


@dataclass(frozen=True)
class Life:
    """A real process with a real end; what lies between is a matter of the clock."""

    command: str
    seconds: float | None = 0.0  # None: until it is told to stop.
    exit_message: str = ""


SHORT = Life("false")
LONG = Life("false", seconds=MIN_CHILD_LIFE_SECONDS)
WORK_DONE = Life("true", exit_message=COMPLETED)
UNTIL_TOLD = Life("cat", seconds=None, exit_message=EXITING)


class Simulation:
    """
    Run a supervisor on a simulated clock.

    The clock moves only while the supervisor sleeps, or while one of its processes lives. The
    supervisor is told to stop after ``stop_after`` seconds. From then on it really sleeps.
    """

    def __init__(self, lives: Iterable[Life], stop_after: float) -> None:
        self.lives = iter(lives)
        self.now = self.ended = time.monotonic()
        self.stops = self.now + stop_after
        self.rings = False
        self.looks = 0
        self.waits: list[float] = []  # Between the end of a process and the start of the next.

    def run(self, processes: int) -> bool:
        self.supervisor = Supervisor(["manage.py", "process_tasks"], processes)
        return self.supervisor.run()

    def spawn(self) -> Child:
        life = next(self.lives)
        self.waits.append(self.now - self.ended)
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.close(writer)
        process = subprocess.Popen(life.command, stdin=subprocess.PIPE)
        child = Child(process, reader, self.now, self.now, exit_message=life.exit_message)
        if life.seconds is not None:
            process.wait()
            self.now += life.seconds
            self.rings = True  # As SIGCHLD would.
        self.ended = self.now
        return child

    # What the supervisor takes for the time, and for its waker

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.looks += 1
        if self.rings:
            self.rings = False
        elif self.now < self.stops:
            self.now = min(self.now + seconds, self.stops)
            if self.now == self.stops:
                self.supervisor.stop()
        else:
            time.sleep(seconds)
            self.now += seconds

    def wake(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Simulation]:
    def prepare(lives: Iterable[Life], stop_after: float) -> Simulation:
        simulation = Simulation(lives, stop_after)
        monkeypatch.setattr(supervisor, "clock", simulation)
        monkeypatch.setattr(supervisor, "Waker", lambda: simulation)
        monkeypatch.setattr(Supervisor, "_spawn", lambda supervisor: simulation.spawn())
        return simulation

    return prepare


def test_process_that_ends_at_once_is_started_again_after_growing_waits(simulated):
    simulation = simulated(repeat(SHORT), stop_after=200)

    simulation.run(processes=1)

    assert simulation.waits == pytest.approx([0, 1, 2, 4, 8, 16, *[MAX_RESTART_WAIT_SECONDS] * 5])
    assert simulation.looks < 300


def test_process_that_has_lived_for_long_is_replaced_at_once_and_the_waits_begin_again(simulated):
    simulation = simulated(chain([SHORT] * 3, [LONG], repeat(SHORT)), stop_after=23)

    simulation.run(processes=1)

    assert simulation.waits == pytest.approx([0, 1, 2, 4, 0, 1, 2], abs=0.1)


def test_stop_does_not_wait_for_a_delayed_start(simulated):
    simulation = simulated(repeat(SHORT), stop_after=100)

    is_clean = simulation.run(processes=1)

    assert is_clean
    assert simulation.now < simulation.stops + 1
    assert simulation.waits[-1] == pytest.approx(MAX_RESTART_WAIT_SECONDS)


def test_supervisor_is_idle_about_completed_processes(simulated):
    simulation = simulated([WORK_DONE, UNTIL_TOLD], stop_after=HOUR)

    is_clean = simulation.run(processes=2)

    assert is_clean
    assert simulation.looks < HOUR + 100


def test_process_without_a_worker_causes_no_query(simulated, caplog):
    simulated([SHORT, UNTIL_TOLD], stop_after=10).run(processes=1)

    # To ask it would raise: this test has not told pytest that it needs a database.
    assert [record.message for record in caplog.records if record.exc_info] == []
