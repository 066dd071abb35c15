"""Measure how fast workers empty a queue of no-ops, and that two are no slower than one."""

from __future__ import annotations

from tests.benchmarks import yardsticks
from tests.benchmarks.figures import Figures
from tests.benchmarks.harness import Bench

GOALS = {"postgresql": "≥ 15,000", "sqlite": "≥ 15,000", "mysql": "≥ 6,000"}


def drain(bench: Bench) -> Figures:
    """Compare one process with the plain loop."""
    figures, number = Figures("drain"), max(bench.size(100_000), 30_000)
    for _ in range(bench.repeat):
        bench.clear()
        bench.fill(number)
        plain = number / yardsticks.drain(bench.vendor)
        ours, cpu = _ours(bench, number)
        figures.note("plain driver, batches of 100", plain, "/s")
        figures.note("one process_tasks", ours, "/s", GOALS[bench.vendor])
        ratio_goal = "≥ 0.4" if bench.vendor == "postgresql" else ""
        figures.note("… of the plain driver", ours / plain, "", ratio_goal)
        figures.note("… CPU of the worker", cpu, "µs/task")
    return figures


def two(bench: Bench) -> Figures:
    """Compare two processes with one."""
    figures, number = Figures("two processes"), max(bench.size(100_000), 30_000)
    for _ in range(bench.repeat):
        one, _cpu = _ours(bench, number)
        both, _cpu = _ours(bench, number, workers=2)
        figures.note("one", one, "/s")
        figures.note("two", both, "/s")
        figures.note("… of one", both / one, "", "≥ 1" if bench.vendor == "postgresql" else "")
    return figures


def _ours(bench: Bench, number: int, workers: int = 1) -> tuple[float, float]:
    """Return tasks a second, and µs of CPU a task."""
    bench.clear()
    numbers = bench.fill(number)
    drained = bench.drain(number, workers=workers)
    bench.probe.confirm(numbers)
    return number / drained.seconds, drained.cpu / number * 1e6
