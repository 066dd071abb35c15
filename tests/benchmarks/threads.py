"""Measure slow tasks: many at once, and some beside many no-ops."""

from __future__ import annotations

from itertools import pairwise

from tests.benchmarks.figures import Figures
from tests.benchmarks.harness import Bench
from tests.benchmarks.probe import Sight
from tests.benchmarks.tasks import nap, noop

THREADS = 32
NAP = 0.01


def waiting(bench: Bench) -> Figures:
    """Measure tasks that wait for ten milliseconds, on 32 threads."""
    figures, number = Figures("10 ms of I/O"), bench.size(16_000)
    best = THREADS / NAP
    for _ in range(bench.repeat):
        bench.clear()
        nap.enqueue_many((n, NAP) for n in range(1, number + 1))
        bench.settle()
        drained = bench.drain(number, f"--threads={THREADS}")
        bench.probe.confirm(range(1, number + 1))
        rate = number / drained.seconds
        figures.note("32 threads", rate, "/s")
        figures.note("… of 32 / 10 ms", rate / best, "", "≥ 0.9")
    return figures


def slow_beside_fast(bench: Bench) -> Figures:
    """Measure how long a thread of two workers is idle while a task is READY."""
    figures, number, every = Figures("slow beside no-ops"), 2_000, 100
    for _ in range(bench.repeat):
        bench.clear()
        for first in range(1, number, every):  # A slow task, then many no-ops.
            nap(first, 1.0)
            noop.enqueue_many((n,) for n in range(first + 1, first + every))
        bench.settle()
        # MariaDB can only be polled, so poll often.
        bench.drain(number, "--threads=2", "--sleep=0.5", workers=2, stay=True)
        bench.probe.confirm(range(1, number + 1))
        sights = bench.probe.sights()
        figures.note("in all", sights[-1].end - sights[0].start, "s")
        figures.note(
            "a thread was free while a task was ready", _longest_free(sights, 4), "s", "≤ 2"
        )
    return figures


def _longest_free(sights: list[Sight], threads: int) -> float:
    """Return the longest time with a free thread, before the last task was started."""
    events = sorted([(sight.start, 1) for sight in sights] + [(sight.end, -1) for sight in sights])
    last, everybody = sights[-1].start, _all_at_work(sights, threads)
    running, longest, free_since = 0, 0.0, None
    for (when, change), (after, _) in pairwise(events):
        running += change
        if running >= threads or after > last or when < everybody:
            free_since = None
        else:
            free_since = when if free_since is None else free_since
            longest = max(longest, after - free_since)
    return longest


def _all_at_work(sights: list[Sight], threads: int) -> float:
    """Return when the last of the threads started its first task."""
    first: dict[int, float] = {}
    for sight in sights:
        first.setdefault(sight.thread, sight.start)
    return max(first.values()) if len(first) == threads else sights[0].start
