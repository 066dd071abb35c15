"""Measure how long it takes to store tasks: one by one, and many at once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from bgtask.models import Task
from tests.benchmarks.figures import Figures
from tests.benchmarks.harness import Bench
from tests.benchmarks.tasks import noop
from tests.processes import ROOT

BLOCK = 100


def one_by_one(bench: Bench) -> Figures:
    """Compare a call with create() of the same row, in autocommit and in turns (equal load)."""
    figures = Figures("enqueue")
    blocks = bench.size(100)
    for _ in range(bench.repeat):
        bench.clear()
        took = {"create": 0.0, "enqueue": 0.0}
        for number in range(blocks):
            took["create"] += _seconds(_create, number)
            took["enqueue"] += _seconds(noop, number)
        if Task.objects.ready().count() != 2 * blocks * BLOCK:
            raise AssertionError("Some were not stored.")
        rates = {name: blocks * BLOCK / seconds for name, seconds in took.items()}
        figures.note("Task.objects.create()", rates["create"], "/s")
        figures.note("noop(number)", rates["enqueue"], "/s")
        figures.note("… of create()", rates["enqueue"] / rates["create"], "", "≥ 1, aim 1.3")
    return figures


def many(bench: Bench) -> Figures:
    figures, number = Figures("enqueue_many"), bench.size(200_000)
    goals = {"postgresql": "≥ 60,000", "sqlite": "≥ 40,000"}
    for _ in range(bench.repeat):
        bench.clear()
        started = time.monotonic()
        noop.enqueue_many((n,) for n in range(number))
        rate = number / (time.monotonic() - started)
        if Task.objects.ready().count() != number:
            raise AssertionError("Some were not stored.")
        figures.note("noop.enqueue_many()", rate, "/s", goals.get(bench.vendor, ""))
    bench.clear()
    million = bench.size(1_000_000)
    growth = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.million", str(million)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    what = f"memory that {million:,} from a generator add to those of {million // 10:,}"
    figures.note(what, float(growth), "MB", "flat")
    return figures


def _create(number: int) -> None:
    Task.objects.create(task_name=noop.name, task_params=f"[[{number}], {{}}]")


def _seconds(store: Callable[[int], object], number: int) -> float:
    started = time.perf_counter()
    for _ in range(BLOCK):
        store(number)
    return time.perf_counter() - started
