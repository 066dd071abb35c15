"""Measure how soon an idle worker starts enqueued tasks, and tasks that are due later."""

from __future__ import annotations

import random
import time
from datetime import timedelta

from bgtask.models import Task
from tests.benchmarks.figures import Figures, percentile
from tests.benchmarks.harness import Bench
from tests.benchmarks.tasks import noop

POLL = 0.5  # For MariaDB, which can't wake a worker.


def pick_up(bench: Bench) -> Figures:
    """Measure from the return of the call to the start of the function."""
    figures, number = Figures("idle pick-up"), bench.size(200)
    polls = bench.vendor == "mysql"
    goals = {"postgresql": (3, 6), "sqlite": (60, 120), "mysql": (POLL * 1000, POLL * 1000 + 20)}
    for _ in range(bench.repeat):
        bench.clear()
        with bench.worker(f"--sleep={POLL if polls else 5}") as child:
            bench.await_idle(child)
            returned = {}
            for n in range(1, number + 1):
                noop(n)
                returned[n] = time.monotonic()
                time.sleep(random.uniform(0.06, 0.14))
            time.sleep(POLL * 2)
        bench.probe.confirm(returned)
        waits = [
            max(sight.start - returned[sight.number], 0) * 1000 for sight in bench.probe.sights()
        ]
        for name, share, goal in zip(("p50", "p95"), (0.5, 0.95), goals[bench.vendor], strict=True):
            figures.note(name, percentile(waits, share), "ms", f"≤ {goal:.0f}")
    return figures


def due(bench: Bench) -> Figures:
    """Measure how late a scheduled task starts."""
    figures, number = Figures("due at T"), bench.size(100)
    goal = "" if bench.vendor == "mysql" else "≤ 50"
    for _ in range(bench.repeat):
        bench.clear()
        with bench.worker() as child:
            bench.await_idle(child)
            for n in range(1, number + 1):
                noop.using(schedule=timedelta(seconds=1 + n * 0.037))(n)
            bench.until(lambda: Task.objects.succeeded().count() == number, 0.5)
        bench.probe.confirm(range(1, number + 1))
        wall = time.time() - time.monotonic()
        run_at = {int(task.params()[0][0]): task.run_at.timestamp() for task in Task.objects.all()}
        late = [
            (sight.start + wall - run_at[sight.number]) * 1000 for sight in bench.probe.sights()
        ]
        figures.note("p50", percentile(late, 0.5), "ms late")
        figures.note("p95", percentile(late, 0.95), "ms late", goal)
        figures.note("least", min(late), "ms late", "≥ 0")
    return figures
