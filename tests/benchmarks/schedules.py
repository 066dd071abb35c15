"""Measure how long one worker takes to fire many schedules that are due at once."""

from __future__ import annotations

import time

from bgtask.db import DatabaseNow
from bgtask.models import Schedule, Slot, Task
from bgtask.models.schedule import Source
from bgtask.schedules.definition import check_definition
from bgtask.schedules.fire import fire_due
from tests.benchmarks.figures import Figures
from tests.benchmarks.harness import Bench
from tests.benchmarks.tasks import noop

MANY = 10_000
GOAL = "≤ 60"  # They are due in one minute.


def fire_many(bench: Bench) -> Figures:
    """Fire so many schedules with a cron expression that are due at the same time."""
    figures = Figures("schedules")
    number = MANY // 10 if bench.quick else MANY
    definition = check_definition(noop.name, "[[1], {}]", cron="*/5 * * * *", time_zone="UTC")
    for _ in range(bench.repeat):
        bench.clear()
        Slot.objects.all().delete()
        Schedule.objects.all().delete()
        Schedule.objects.bulk_create(
            [
                Schedule(
                    key=f"schedule {place}",
                    source=Source.ADMIN,
                    next_at=DatabaseNow(-1),
                    **definition.columns,
                )
                for place in range(number)
            ],
            batch_size=500,
        )
        bench.settle()
        begin = time.perf_counter()
        fired = fire_due("benchmark:1")
        seconds = time.perf_counter() - begin
        if not fired == Task.objects.count() == Slot.objects.count() == number:
            raise SystemExit(f"{fired} of {number} schedules were fired.")
        figures.note(f"{number:,} schedules fired by one worker", seconds, "s", GOAL)
        figures.note("… a second", number / seconds, "/s")
    bench.clear()
    Slot.objects.all().delete()
    Schedule.objects.all().delete()
    return figures
