"""How long it takes to empty many queues that hold one task each, beside one queue of them all."""

from __future__ import annotations

from bgtask.models import Task
from tests.benchmarks.figures import Figures
from tests.benchmarks.harness import Bench
from tests.benchmarks.tasks import noop

QUEUES = (1, 10, 100, 1_000, 2_000)
GOAL = "≤ 2"


def many_queues(bench: Bench) -> Figures:
    """Compare the same number of tasks in one queue and in a queue for each task."""
    figures = Figures("many queues")
    for _ in range(bench.repeat):
        for number in QUEUES:
            one = _drain(bench, number, 1)
            many = _drain(bench, number, number)
            figures.note(f"{number:,} tasks in one queue", one, "s")
            figures.note(f"{number:,} queues of one task each", many, "s")
            figures.note(f"… of one queue's ({number:,})", many / one, "", GOAL)
    return figures


def _drain(bench: Bench, number: int, queues: int) -> float:
    """Return the seconds in which one worker executes so many tasks of so many queues."""
    bench.clear()
    numbers = bench.fill(number)
    if queues > 1:
        tasks = list(Task.objects.filter(task_name=noop.name))
        for place, task in enumerate(tasks):
            task.queue = f"tenant-{place % queues}"
        Task.objects.bulk_update(tasks, ["queue"], batch_size=100)
        bench.settle()
    drained = bench.drain(number)
    bench.probe.confirm(numbers)
    return drained.seconds
