"""Measure whether claims stay as fast beside millions of rows, and beside an old snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection

from bgtask.conf import DEFAULT_QUEUE
from tests.benchmarks.figures import Figures
from tests.benchmarks.harness import Bench, raw_connection
from tests.benchmarks.tasks import noop

SERIES = {
    "postgresql": "SELECT n FROM generate_series(1, {0}) AS n",
    "mysql": "SELECT seq AS n FROM seq_1_to_{0}",
    "sqlite": "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {0}) "
    "SELECT n FROM s",
}
TIMES = {  # One hour ago, and one day from now.
    "postgresql": ("now() - interval '1 hour'", "now() + interval '1 day'"),
    "mysql": ("UTC_TIMESTAMP(6) - INTERVAL 1 HOUR", "UTC_TIMESTAMP(6) + INTERVAL 1 DAY"),
    "sqlite": ("datetime('now', '-1 hour')", "datetime('now', '+1 day')"),
}


def crowd(bench: Bench) -> Figures:
    """Compare claims from a queue of that size with claims from the middle of millions."""
    figures, number = Figures("crowd"), bench.size(40_000)
    million = bench.size(1_000_000)
    empty, with_snapshot = [], []
    for _ in range(bench.repeat):
        _only(bench, number)
        empty.append(_rate(bench, number))
        _only(bench, number)
        with _old_snapshot(bench):
            with_snapshot.append(_rate(bench, number))
    bench.clear()
    bench.say(f"  filling in {7 * million:,} rows …")
    past, future = TIMES[bench.vendor]
    _insert(bench, 5 * million, "SUCCESSFUL", past, finished=past)
    _insert(bench, million, "SCHEDULED", future)
    _insert(bench, million, "READY", past)
    bench.settle()
    crowded = [_rate(bench, number) for _ in range(bench.repeat)]
    both = []
    for _ in range(bench.repeat):
        bench.settle()  # Leftovers of the last run would slow this one too.
        with _old_snapshot(bench):
            both.append(_rate(bench, number))
    rows = (
        f"{million / 1e6:g} M ready, {million / 1e6:g} M future, {5 * million / 1e6:g} M finished"
    )
    for values in zip(empty, crowded, with_snapshot, both, strict=True):
        alone, beside, snapshot, all_of_it = values
        figures.note("an otherwise empty table", alone, "/s")
        figures.note(f"beside {rows}", beside, "/s")
        figures.note("… of the empty table's", beside / alone, "", "≥ 0.9")
        figures.note("while another session holds an old snapshot", snapshot, "/s")
        figures.note("… of the empty table's (snapshot)", snapshot / alone, "", "≥ 0.9")
        figures.note("both", all_of_it, "/s")
        figures.note("… of the empty table's (both)", all_of_it / alone, "", "≥ 0.9")
    bench.clear()
    return figures


def _only(bench: Bench, number: int) -> None:
    bench.clear()
    bench.fill(number)


def _rate(bench: Bench, number: int) -> float:
    """Return tasks a second of a worker that runs so many, wherever their rows are."""
    bench.forget()
    drained = bench.drain(number, f"--max-tasks={number}")
    numbers = [sight.number for sight in bench.probe.sights()]
    if len(numbers) != number or len(set(numbers)) != number:
        raise AssertionError(f"{len(numbers)} executions of {len(set(numbers))} tasks.")
    return number / drained.seconds


def _insert(bench: Bench, number: int, status: str, run_at: str, finished: str = "NULL") -> None:
    concat = "CONCAT('[[', n, '], {}]')" if bench.vendor == "mysql" else "'[[' || n || '], {}]'"
    attempts = 1 if finished != "NULL" else 0
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO bgtask_task (task_name, task_params, queue, status, run_at, enqueued_at, "
            "started_at, finished_at, attempts, token) "
            f"SELECT '{noop.name}', {concat}, '{DEFAULT_QUEUE}', '{status}', {run_at}, {run_at}, "
            f"{finished}, {finished}, {attempts}, {attempts} "
            f"FROM ({SERIES[bench.vendor].format(number)}) AS s"
        )


@contextmanager
def _old_snapshot(bench: Bench) -> Iterator[None]:
    """Keep a transaction open that has read."""
    begin = {
        "postgresql": "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "mysql": "START TRANSACTION WITH CONSISTENT SNAPSHOT",
        "sqlite": "BEGIN",
    }
    other = raw_connection()
    try:
        cursor = other.cursor()
        cursor.execute(begin[bench.vendor])
        cursor.execute("SELECT count(*) FROM bgtask_worker")
        cursor.fetchall()
        yield
    finally:
        other.close()
