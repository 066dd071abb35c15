"""Measure what an idle worker costs."""

from __future__ import annotations

import time

from tests.benchmarks.figures import Figures
from tests.benchmarks.harness import COUNTING, Bench, counted, cpu_of, rss_of
from tests.benchmarks.tasks import noop

INTERVAL = 5.0  # The default of --sleep.


def idle(bench: Bench) -> Figures:
    figures = Figures("idle worker")
    watched = 30.0 if bench.quick else 60.0
    for _ in range(bench.repeat):
        bench.clear()
        with bench.worker(apps=(COUNTING,)) as child:
            bench.await_idle(child)
            noop.enqueue_many((n,) for n in range(1_000))  # Give the worker some work first.
            bench.until(lambda: counted() >= 1_000, 0.1)  # All are done and counted.
            time.sleep(1)
            start, cpu, memory = time.monotonic(), cpu_of(child.pid), rss_of(child.pid)
            time.sleep(watched)
            cpu, after = cpu_of(child.pid) - cpu, rss_of(child.pid)
        queries = [thread for when, thread, _ in bench.queries() if when >= start]
        beats = queries.count("bgtask-heartbeat")
        intervals = watched / INTERVAL
        chores = queries.count("bgtask-maintenance")
        figures.note("CPU", cpu / watched * 100, "% of a core", "< 0.5")
        turns = len(queries) - beats - chores
        figures.note("queries of the loop per 5 s", turns / intervals, "", "≤ 3")
        figures.note("queries of the heartbeat per 10 s", beats / (watched / 10), "", "≤ 1")
        figures.note("queries of the chores per minute", chores / (watched / 60), "")
        figures.note("memory", after, "MB", "≤ 70")
        figures.note("… more than before", after - memory, "MB", "flat")
    return figures
