"""
Measure what SQLite's ``synchronous=FULL`` costs compared with NORMAL, in one run.

    python -m tests.benchmarks.synchronous

Each round takes both modes in turn: it enqueues tasks one by one, each in its own transaction, and
drains them with a worker. The figures are medians. Only the ratios can be compared with those of
another machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from tests.databases import sqlite
from tests.processes import ROOT

MODES = ("NORMAL", "FULL")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--in-child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_child:
        return _measure(options.tasks)
    rates: dict[str, list[list[float]]] = {mode: [] for mode in MODES}
    for _ in range(options.rounds):
        for mode in MODES:
            rates[mode].append(_round(mode, options.tasks))
    print("| tasks a second | NORMAL | FULL | FULL / NORMAL |", "|---|---|---|---|", sep="\n")  # noqa: T201
    for index, what in enumerate(("enqueue", "drain")):
        normal, full = (
            statistics.median(rates_of_round[index] for rates_of_round in rates[mode])
            for mode in MODES
        )
        print(f"| {what} | {normal:,.0f} | {full:,.0f} | {full / normal:.2f} |")  # noqa: T201
    return 0


def _round(mode: str, tasks: int) -> list[float]:
    with sqlite(durable=mode == "FULL") as settings:
        child = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.benchmarks.synchronous",
                "--in-child",
                f"--tasks={tasks}",
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "BGTASK_TEST_DATABASE": json.dumps(settings),
                "DJANGO_SETTINGS_MODULE": "tests.settings",
            },
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    rates: list[float] = json.loads(child.stdout.splitlines()[-1])
    return rates


def _measure(tasks: int) -> int:
    import django

    django.setup()
    from django.core.management import call_command

    from bgtask.models import Task
    from bgtask.worker.runner import Runner
    from tests.tasks import noop

    call_command("migrate", verbosity=0)
    began = time.perf_counter()
    for _ in range(tasks):
        noop()
    enqueued = time.perf_counter()
    Runner(drain=True).run()
    drained = time.perf_counter()
    if Task.objects.succeeded().count() != tasks:
        raise SystemExit("Not every task has run.")
    print(json.dumps([tasks / (enqueued - began), tasks / (drained - enqueued)]))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
