"""How long it takes to empty many queues that hold one task each, beside one queue of them all."""

from __future__ import annotations

from django.utils import timezone

from bgtask.models import QueuePause, Task
from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Figures
from tests.benchmarks.tasks import noop

MANY = 1_000
QUEUES = (1, 10, 100, MANY, 2_000)
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
        one, many = (_drain(bench, MANY, queues, workers=2) for queues in (1, MANY))
        figures.note(f"… with two processes ({MANY:,})", many / one, "", GOAL)
        one, half = _drain(bench, MANY // 2, 1), _drain(bench, MANY, MANY, paused=MANY // 2)
        figures.note(f"… with half of the queues paused ({MANY:,})", half / one, "", GOAL)
    return figures


def _drain(bench: Bench, number: int, queues: int, *, workers: int = 1, paused: int = 0) -> float:
    """Return the seconds in which so many tasks of so many queues are executed."""
    bench.clear()
    numbers = bench.fill(number)
    if queues > 1:
        tasks = list(Task.objects.filter(task_name=noop.name))
        for place, task in enumerate(tasks):
            task.queue = f"tenant-{place % queues}"
        Task.objects.bulk_update(tasks, ["queue"], batch_size=100)
        bench.settle()
    now = timezone.now()
    QueuePause.objects.bulk_create(
        QueuePause(queue=f"tenant-{place}", paused_at=now) for place in range(paused)
    )
    drained = bench.drain(number - paused, workers=workers)
    QueuePause.objects.all().delete()
    bench.witness.confirm(numbers[paused:])
    return drained.seconds
