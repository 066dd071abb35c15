"""Compare tasks of Django's API with background functions that do the same."""

from __future__ import annotations

import logging
import time
from uuid import uuid4

from bgtask.models import Task
from tests.benchmarks.figures import Figures
from tests.benchmarks.harness import Bench
from tests.benchmarks.tasks import noop

BLOCK = 100
SILENT = "tests.benchmarks.silent"


def drain(bench: Bench) -> Figures:
    """Drain both kinds in turns, without receivers and with Django's own, which logs at INFO."""
    figures, number = Figures("drain of Django's tasks"), max(bench.size(100_000), 30_000)
    for _ in range(bench.repeat):
        background, cpu = _drain(bench, number, SILENT)
        silent, silent_cpu = _drain(bench, number, SILENT, is_djangos=True)
        logged, logged_cpu = _drain(bench, number, is_djangos=True)
        figures.note("@background", background, "/s")
        figures.note("… CPU of the worker", cpu, "µs/task")
        figures.note("@task, no receivers", silent, "/s")
        figures.note("… of @background", silent / background, "", "≥ 0.9")
        figures.note("… CPU, no receivers", silent_cpu, "µs/task")
        figures.note("@task, logged at INFO", logged, "/s")
        figures.note("… logged, of @background", logged / background, "", "≥ 0.6")
        figures.note("… CPU, logged at INFO", logged_cpu, "µs/task")
    return figures


def _drain(bench: Bench, number: int, *apps: str, is_djangos: bool = False) -> tuple[float, float]:
    """Return how many tasks a second one worker runs, and µs of CPU a task."""
    bench.clear()
    numbers = range(1, number + 1)
    Task.objects.bulk_create((_row(one, is_djangos) for one in numbers), batch_size=1_000)
    bench.settle()
    drained = bench.drain(number, apps=apps)
    bench.probe.confirm(numbers)
    return number / drained.seconds, drained.cpu / number * 1e6


def _row(number: int, is_djangos: bool) -> Task:
    row = Task(task_name=noop.name, task_params=f"[[{number}], {{}}]")
    if is_djangos:
        from tests.benchmarks.djangos import django_noop

        row.task_name, row.backend = django_noop.module_path, "default"
        row.result_id, row.max_attempts = uuid4(), 1
    return row


def one_by_one(bench: Bench) -> Figures:
    """Enqueue tasks of both kinds in turns, in autocommit."""
    from tests.benchmarks.djangos import django_noop

    figures, blocks = Figures("enqueue of Django's tasks"), bench.size(100)
    logging.getLogger("django.tasks").setLevel(logging.INFO)  # As Django does.
    for _ in range(bench.repeat):
        bench.clear()
        took = {"background": 0.0, "task": 0.0}
        for number in range(blocks):
            took["background"] += _seconds(noop, number)
            took["task"] += _seconds(django_noop.enqueue, number)
        rates = {name: blocks * BLOCK / seconds for name, seconds in took.items()}
        figures.note("@background", rates["background"], "/s")
        figures.note("@task", rates["task"], "/s")
        figures.note("… of @background", rates["task"] / rates["background"], "", "≥ 0.8")
    return figures


def _seconds(store, number: int) -> float:
    started = time.perf_counter()
    for _ in range(BLOCK):
        store(number)
    return time.perf_counter() - started
