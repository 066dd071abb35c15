"""Give all rows of the table one database, its workers and a probe."""

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

MAX_WAIT_SECONDS = 900.0
LISTENERS, COUNTING = "tests.benchmarks.listeners", "tests.benchmarks.counting"


@dataclass
class Drained:
    """The time and the CPU that workers took to empty a queue."""

    seconds: float
    cpu: float  # CPU seconds of the workers.


@dataclass
class Bench:
    database: str
    directory: Path
    repeat: int
    quick: bool
    probe: Probe = field(init=False)

    def __post_init__(self) -> None:
        self.probe = Probe(self.directory / "probe")
        self._queries = self.directory / "queries"

    @property
    def vendor(self) -> str:
        return connection.vendor

    def size(self, full: int) -> int:
        """Return the full size, or a tenth of it with --quick."""
        return full // 10 if self.quick else full

    def say(self, what: str) -> None:
        sys.stderr.write(f"{what}\n")

    # The tables

    def forget(self) -> None:
        """Delete what earlier runs have recorded. Keep the tasks."""
        self.probe.forget()
        self._queries.unlink(missing_ok=True)
        TaskStats.objects.all().delete()
        Worker.objects.all().delete()

    def clear(self) -> None:
        """Empty all tables of the queue."""
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
        """Let the database update its statistics and write its pages, as it does in time."""
        statement = {"postgresql": "VACUUM (ANALYZE) bgtask_task", "sqlite": "ANALYZE"}
        with connection.cursor() as cursor:
            cursor.execute(statement.get(self.vendor, "ANALYZE TABLE bgtask_task"))
            if self.vendor == "mysql":
                cursor.fetchall()
                self._flush(cursor)
            if self.vendor == "postgresql":
                cursor.execute("CHECKPOINT")

    def _flush(self, cursor) -> None:
        """Write changed pages now, not later, as CHECKPOINT does on PostgreSQL."""

        def dirty() -> int:
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'")
            return int(cursor.fetchone()[1])

        cursor.execute("SET GLOBAL innodb_max_dirty_pages_pct = 0")
        self.until(lambda: dirty() < 100, 0.05)
        cursor.execute("SET GLOBAL innodb_max_dirty_pages_pct = DEFAULT")

    def fill(self, number: int) -> range:
        """Enqueue so many no-ops, all READY, and return their numbers."""
        noop.enqueue_many((n,) for n in range(1, number + 1))
        self.settle()
        return range(1, number + 1)

    # The workers

    @contextmanager
    def worker(self, *args: str, apps: tuple[str, ...] = (LISTENERS,)) -> Iterator[Child]:
        """Run ``process_tasks`` in a process of its own, with a receiver on each signal."""
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

    def drain(
        self,
        number: int,
        *args: str,
        workers: int = 1,
        stay: bool = False,
        apps: tuple[str, ...] = (LISTENERS,),
    ) -> Drained:
        """
        Let workers empty the queue, and return the time it took.

        Time runs from when the first worker registers, just before its first claim. It ends when
        so many outcomes and their statistics can be read from here. The workers leave when there
        is nothing more to claim, or with ``stay`` only when all tasks have ended.
        """
        if workers > 1:
            args = (*args, f"--processes={workers}")
        with self.worker(*(() if stay else ("--drain",)), *args, apps=apps) as child:
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
        # Count only these: counting millions that finished before would empty the server's caches.
        outcomes = Task.objects.succeeded().filter(attempts=1, finished_at__gte=begun).count()
        if outcomes != number:
            raise AssertionError(f"{outcomes} of {number} outcomes are there.")
        return Drained(ended - begun.timestamp(), after - before)

    def queries(self) -> list[tuple[float, str, str]]:
        """Return (time, thread, SQL) of each query of workers that were started with COUNTING."""
        if not self._queries.exists():
            return []
        lines = self._queries.read_text().splitlines()
        parts = (line.split("\t", 2) for line in lines)
        return [(float(when), thread, sql) for when, thread, sql in parts]

    def until(self, answer: Callable[[], object], interval: float = 0.002):
        """Call ``answer`` until its result is true, and return the result."""
        end = time.monotonic() + MAX_WAIT_SECONDS
        while not (found := answer()):
            if time.monotonic() > end:
                raise AssertionError(f"Not within {MAX_WAIT_SECONDS:g} s.")
            time.sleep(interval)
        return found

    def await_idle(self, child: Child, workers: int = 1) -> None:
        """Wait until so many workers have registered and have nothing left to set up."""
        self.until(lambda: Worker.objects.living().count() >= workers, 0.02)
        time.sleep(1.0)


def counted() -> int:
    """Return how many successes the statistics have counted."""
    succeeded = TaskStats.objects.values_list("succeeded", flat=True)
    return sum(succeeded)


def cpu_of(pid: int) -> float:
    """Return the CPU seconds that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_of_family(pid: int) -> float:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return cpu_of(pid) + sum(cpu_of_family(int(child)) for child in children)


def has_ended(pid: int) -> bool:
    """Return whether a process has ended. Don't reap it, so that its figures can still be read."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def rss_of(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def raw_connection():
    """Return a connection of the driver, without Django."""
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
