"""The ground all rows stand on: a database, workers, and the probe."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from django.db import connection, connections

from bgtask.models import Task, TaskStats, Worker
from tests.benchmarks import counting, probe
from tests.benchmarks.probe import Probe
from tests.benchmarks.tasks import noop
from tests.processes import ROOT, Child

MAX_CLAIM_WAIT_SECONDS = 900.0
LISTENERS, COUNTING = "tests.benchmarks.listeners", "tests.benchmarks.counting"


@dataclass
class Drained:
    """What it took to empty a queue."""

    seconds: float
    cpu: float  # Seconds of the workers'.


@dataclass
class Bench:
    database: str
    directory: Path
    repeat: int
    quick: bool
    probe: Probe = field(init=False)

    def __post_init__(self) -> None:
        self.witness = Probe(self.directory / "probe")
        self._queries = self.directory / "queries"

    @property
    def vendor(self) -> str:
        return connection.vendor

    def size(self, full: int) -> int:
        """So many, or a tenth when in a hurry."""
        return full // 10 if self.quick else full

    def say(self, what: str) -> None:
        sys.stderr.write(f"{what}\n")

    # The tables

    def forget(self) -> None:
        """What was told of runs before; the tasks stay."""
        self.probe.forget()
        self._queries.unlink(missing_ok=True)
        TaskStats.objects.all().delete()
        Worker.objects.all().delete()

    def clear(self) -> None:
        """As on the first day."""
        self.forget()
        tables = ("bgtask_attempt", "bgtask_task", "bgtask_taskstats", "bgtask_worker")
        with connection.cursor() as cursor:
            if self.vendor == "postgresql":
                cursor.execute(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE")
            elif self.vendor == "mysql":
                cursor.execute("SET FOREIGN_KEY_CHECKS = 0")
                for table in tables:
                    cursor.execute(f"TRUNCATE {table}")
                cursor.execute("SET FOREIGN_KEY_CHECKS = 1")
            else:
                for table in tables:
                    cursor.execute(f"DELETE FROM {table}")

    def settle(self) -> None:
        """Let the database learn what is there and write it down, as it would after a while."""
        statement = {"postgresql": "VACUUM (ANALYZE) bgtask_task", "sqlite": "ANALYZE"}
        with connection.cursor() as cursor:
            cursor.execute(statement.get(self.vendor, "ANALYZE TABLE bgtask_task"))
            if self.vendor == "mysql":
                cursor.fetchall()
                self._flush(cursor)
            if self.vendor == "postgresql":
                cursor.execute("CHECKPOINT")

    def _flush(self, cursor) -> None:
        """What CHECKPOINT is on PostgreSQL: pages that were changed are written now, not later."""

        def dirty() -> int:
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'")
            return int(cursor.fetchone()[1])

        cursor.execute("SET GLOBAL innodb_max_dirty_pages_pct = 0")
        self.until(lambda: dirty() < 100, 0.05)
        cursor.execute("SET GLOBAL innodb_max_dirty_pages_pct = DEFAULT")

    def fill(self, number: int) -> range:
        """So many no-ops, ready; returns their numbers."""
        noop.enqueue_many((n,) for n in range(1, number + 1))
        self.settle()
        return range(1, number + 1)

    # The workers

    @contextmanager
    def worker(self, *args: str, apps: tuple[str, ...] = (LISTENERS,)) -> Iterator[Child]:
        """``process_tasks`` in a process of its own, with a receiver on each signal."""
        child = Child(
            "process_tasks",
            *args,
            env={
                **os.environ,
                "BGTASK_TEST_DATABASE": json.dumps(connection.settings_dict),
                "BGTASK_TEST_APPS": ",".join(("tests.benchmarks", *apps)),
                "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                probe.DIRECTORY: str(self.probe.directory),
                counting.PATH: str(self._queries),
            },
            log=self.directory / f"worker-{time.monotonic_ns()}.log",
        )
        try:
            yield child
        except BaseException:
            self.say(child.output())
            raise
        finally:
            child.kill()

    def drain(self, number: int, *args: str, workers: int = 1, stay: bool = False) -> Drained:
        """
        Let workers empty the queue. Time runs from when the first reports for duty, just before
        its first claim, until so many outcomes and their statistics can be read from here. They
        leave when there is nothing more to claim, or ``stay`` until all has ended.
        """
        if workers > 1:
            args = (*args, f"--processes={workers}")
        with self.worker(*(() if stay else ("--drain",)), *args) as child:
            firsts = Worker.objects.order_by("started_at")
            self.until(lambda: firsts.exists() or has_ended(child.pid))
            before = cpu_of_family(child.pid)
            self.until(lambda: counted() >= number or has_ended(child.pid), 0.01)
            ended, after = time.time(), cpu_of_family(child.pid)
            if (missing := number - counted()) > 0:
                raise AssertionError(f"The workers have left {missing} tasks behind.")
            begun = firsts[0].started_at
            if stay:
                child.send_signal(signal.SIGTERM)
            child.wait(120)
        # Since then only: to count millions that finished before would empty the server's caches.
        outcomes = Task.objects.succeeded().filter(attempts=1, finished_at__gte=begun).count()
        if outcomes != number:
            raise AssertionError(f"{outcomes} of {number} outcomes are there.")
        return Drained(ended - begun.timestamp(), after - before)

    def queries(self) -> list[tuple[float, str, str]]:
        """Those of workers that were started with COUNTING: when, by which thread, what."""
        if not self._queries.exists():
            return []
        lines = self._queries.read_text().splitlines()
        parts = (line.split("\t", 2) for line in lines)
        return [(float(when), thread, sql) for when, thread, sql in parts]

    def until(self, answer: Callable[[], object], interval: float = 0.002):
        """Ask until the answer is true; return it."""
        end = time.monotonic() + MAX_CLAIM_WAIT_SECONDS
        while not (found := answer()):
            if time.monotonic() > end:
                raise AssertionError(f"Not within {MAX_CLAIM_WAIT_SECONDS:g} s.")
            time.sleep(interval)
        return found

    def await_idle(self, child: Child, workers: int = 1) -> None:
        """Until so many have reported for duty, and have nothing left to set up."""
        self.until(lambda: Worker.objects.living().count() >= workers, 0.02)
        time.sleep(1.0)


def counted() -> int:
    """Successes that the statistics know of."""
    succeeded = TaskStats.objects.values_list("succeeded", flat=True)
    return sum(succeeded)


def cpu_of(pid: int) -> float:
    """Seconds of a core that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_of_family(pid: int) -> float:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return cpu_of(pid) + sum(cpu_of_family(int(child)) for child in children)


def has_ended(pid: int) -> bool:
    """Without taking note of it, so that its figures can still be read."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def rss_of(pid: int) -> float:
    """MB in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def raw_connection():
    """A connection of the driver's own, with nothing of Django's."""
    settings = connections["default"].settings_dict
    if connection.vendor == "postgresql":
        import psycopg

        return psycopg.connect(
            host=settings["HOST"], user=settings["USER"], dbname=settings["NAME"], autocommit=True
        )
    if connection.vendor == "sqlite":
        import sqlite3

        raw = sqlite3.connect(settings["NAME"], isolation_level=None)
        raw.execute("PRAGMA journal_mode=WAL")
        raw.execute("PRAGMA synchronous=NORMAL")
        return raw
    import MySQLdb

    raw = MySQLdb.connect(
        unix_socket=settings["HOST"], user=settings["USER"], database=settings["NAME"],
        charset="utf8mb4", autocommit=True,
    )  # fmt: skip
    raw.cursor().execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    return raw
