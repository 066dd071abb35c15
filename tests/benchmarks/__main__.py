"""
Measure how fast the queue is, compared with what the database itself can do.

    python -m tests.benchmarks                              on PostgreSQL, every row
    python -m tests.benchmarks --database sqlite --only drain,enqueue
    python -m tests.benchmarks --quick --json figures.json

This command starts the servers, durable as in production, and ends them. After each run it checks
that each task ran exactly once. If the machine does something else at the same time, the figures
are worth little, so the load is printed with them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import django

from tests.databases import DATABASES

ROWS = (
    "drain", "two", "enqueue", "many", "pickup", "due", "crowd", "idle", "waiting", "slow",
    "queues", "tasks", "enqueue_tasks", "schedules",
)  # fmt: skip


def main() -> int:
    options = _parse()
    durable = (
        options.database != "sqlite"
    )  # SQLite uses WAL and synchronous = NORMAL; see synchronous.py.
    with (
        DATABASES[options.database](durable=durable) as settings,
        tempfile.TemporaryDirectory(prefix="bgtask-benchmarks-") as directory,
    ):
        os.environ["BGTASK_TEST_DATABASE"] = json.dumps(settings)
        os.environ["BGTASK_TEST_APPS"] = "tests.benchmarks"
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
        django.setup()
        return _measure(options, Path(directory))


def _measure(options: argparse.Namespace, directory: Path) -> int:
    from django.core.management import call_command

    from tests.benchmarks.figures import Figure, as_markdown
    from tests.benchmarks.harness import Bench

    call_command("migrate", verbosity=0)
    bench = Bench(options.database, directory, options.repeat, options.quick)
    rows = _rows()
    figures: list[Figure] = []
    load = os.getloadavg()[0]
    for name in options.only:
        bench.say(f"{name} …")
        figures += rows[name](bench)
    machine = _machine(options, load)
    sys.stdout.write(f"{machine}\n\n{as_markdown(figures)}\n")
    if options.json:
        data = {"machine": machine, "figures": [figure.as_data() for figure in figures]}
        options.json.write_text(json.dumps(data, indent=1))
    return 0


def _rows() -> dict[str, Callable]:
    """Return the functions by row. Import them late, because they need Django's models."""
    from tests.benchmarks import (
        django_tasks,
        drain,
        enqueue,
        idle,
        large_tables,
        latency,
        queues,
        schedules,
        threads,
    )  # fmt: skip

    functions = (
        drain.drain, drain.two, enqueue.one_by_one, enqueue.many, latency.pick_up, latency.due,
        large_tables.crowd, idle.idle, threads.waiting, threads.slow_beside_fast,
        queues.many_queues, django_tasks.drain, django_tasks.one_by_one,
        schedules.fire_many,
    )  # fmt: skip
    return dict(zip(ROWS, functions, strict=True))


def _machine(options: argparse.Namespace, load: float) -> str:
    from django.db import connection

    version = ".".join(map(str, connection.get_database_version()))
    return (
        f"{options.database} {version}, Python {platform.python_version()}, "
        f"Django {django.get_version()}, {os.cpu_count()} cores, load {load:.1f} before and "
        f"{os.getloadavg()[0]:.1f} after, {options.repeat} runs{', --quick' * options.quick}"
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--database", choices=DATABASES, default="postgresql")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="default 5")
    parser.add_argument("--only", type=_names, default=list(ROWS), metavar="ROWS",
        help=f"of {','.join(ROWS)}")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a tenth of the size of all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    return parser.parse_args()


def _names(value: str) -> list[str]:
    names = value.split(",")
    if unknown := set(names) - set(ROWS):
        raise argparse.ArgumentTypeError(f"no row is called {min(unknown)!r}")
    return names


if __name__ == "__main__":
    sys.exit(main())
