"""
Cause two or three random faults at a time. Then check that every task is accounted for.

    python -m tests.system.faults.chaos --database postgresql --minutes 30 --seed 1

The module is long because it holds the faults, the load and the final check of one experiment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.system.faults.servers import Server, server

VENDORS = {"sqlite": "sqlite", "postgresql": "postgresql", "mariadb": "mysql"}
ENQUEUE_EVERY = 0.07
UNIQUE_KEYS = 10
SCHEDULES = 5
END = 240.0  # Seconds within which all tasks must have ended when the faults are over.


class _Chance(threading.local):
    """A random generator of each thread, so that the speed of others doesn't change its draws."""

    random: random.Random


class Chaos:
    def __init__(self, testbed: Any, seed: int) -> None:
        self.testbed = testbed
        self.server: Server = testbed.server
        self.proxy = testbed.proxy
        self.seed = seed
        self._chance = _Chance()
        self._chance.random = random.Random(seed)
        self.posts: list[tuple[str, ...]] = [
            ("--processes=2", "--threads=3"),
            ("--threads=2",),
            ("--threads=2", "--queue=default", "--queue=bulk"),
        ]
        self.crew: list[Any] = [testbed.worker(*post) for post in self.posts]
        self.committed: set[int] = set()
        self.batches: dict[str, tuple[int, bool]] = {}  # Size, and whether it was committed.
        self.faults: Counter[str] = Counter()
        self.keys_twice: list[str] = []  # Names that two live tasks had at once.
        self.healed: list[float] = []  # When outages ended.
        self.exits: Counter[str] = Counter()
        self.over = threading.Event()
        self.quiet = threading.Event()

    @property
    def random(self) -> random.Random:
        return self._chance.random

    # Life

    def run(self, seconds: float) -> dict[str, Any]:
        started = time.monotonic()
        self.schedule()
        parts = [self.keep, self.enqueue, self.operate]
        threads = [threading.Thread(target=self._lasting(part), daemon=True) for part in parts]
        for thread in threads:
            thread.start()
        while time.monotonic() < started + seconds:
            self.strike()
            time.sleep(self.random.uniform(0.5, 5))
        self.quiet.set()
        for thread in threads[1:]:
            thread.join()
        settled = self.settle()
        leaks = self.crew_figures()
        self.over.set()
        threads[0].join()
        return self.report(time.monotonic() - started, settled, leaks)

    def _lasting(self, part: Callable[[], None]) -> Callable[[], None]:
        """Return a function that repeats ``part``, also if the faults cut its own connections."""
        from django.db import Error, connections

        def run() -> None:
            self._chance.random = random.Random(f"{self.seed} {part.__name__}")
            event = self.over if part == self.keep else self.quiet
            while not event.is_set():
                try:
                    part()
                except Error:
                    with contextlib.suppress(Exception):
                        connections["default"].close()
                    time.sleep(0.2)
            connections.close_all()

        return run

    def keep(self) -> None:
        """Start ended processes again, as an init system does."""
        for number, child in enumerate(self.crew):
            if not child.is_running():
                self.exits[str(child.returncode)] += 1
                self.crew[number] = self.testbed.worker(*self.posts[number])
        time.sleep(0.2)

    def enqueue(self) -> None:
        from tests.system.faults import tasks

        time.sleep(ENQUEUE_EVERY * self.random.uniform(0.2, 1.8))
        choice = self.random.choices(
            (
                "quick",
                "nap",
                "flaky",
                "query",
                "hopeless",
                "overrun",
                "poison",
                "later",
                "bulk",
                "only_one",
            ),
            (30, 20, 10, 20, 2, 0.7, 0.4, 10, 0.7, 15),
        )[0]
        match choice:
            case "quick":
                task = tasks.quick(priority=self.random.randint(-1, 1))
            case "nap":
                task = tasks.nap(round(self.random.uniform(0.02, 0.4), 3))
            case "flaky":
                task = tasks.flaky(0.3)
            case "query":
                task = tasks.query.using(queue="database")()
            case "hopeless":
                task = tasks.hopeless()
            case "overrun":
                task = tasks.overrun(self.random.choice([0.5, 4]))
            case "poison":
                task = tasks.poison()
            case "only_one":
                replacing = tasks.only_one.using(on_conflict="replace")
                function = self.random.choice((tasks.only_one, replacing))
                task = function(self.random.randrange(UNIQUE_KEYS))
            case "later":
                task = tasks.quick(schedule=self.random.uniform(0.1, 5))
            case _:
                return self.enqueue_many()
        self.committed.add(task.pk)

    def enqueue_many(self) -> None:
        from tests.system.faults import tasks

        name = f"batch {len(self.batches)}"
        size = self.random.randint(50, 400)
        self.batches[name] = (size, False)
        tasks.quick.using(queue="bulk", verbose_name=name).enqueue_many([(n,) for n in range(size)])
        self.batches[name] = (size, True)

    def operate(self) -> None:
        """Use the buttons of the dashboard, as an operator does."""
        from bgtask.db import DatabaseNow
        from bgtask.models import QueuePause, Task, TaskHold

        time.sleep(self.random.uniform(0.5, 4))
        some = Task.objects.order_by("-pk")[: self.random.randint(1, 10)]
        tasks = Task.objects.filter(pk__in=list(some.values_list("pk", flat=True)))
        names = Task.objects.live().filter(unique_while="running")
        self.keys_twice += [
            name
            for name, number in Counter(names.values_list("unique_name", flat=True)).items()
            if number > 1
        ]
        match self.random.choice(
            ("cancel", "force", "requeue", "hold", "unhold", "pause", "stop", "edit", "edit")
        ):
            case "edit":
                self.edit_schedule()
            case "cancel":
                tasks.cancel()
            case "force":
                tasks.cancel(force=True)
            case "requeue":
                tasks.requeue(reset_attempts=self.random.random() < 0.5)
            case "hold":
                tasks.hold()
            case "unhold":
                Task.objects.unhold()
            case "pause":
                name = self.random.choice(("default", "bulk", "database"))
                QueuePause.objects.update_or_create(
                    queue=name, defaults={"paused_at": DatabaseNow(), "expires_at": DatabaseNow(2)}
                )
            case "stop":
                TaskHold.objects.update_or_create(
                    task_name="tests.system.faults.tasks.nap",
                    defaults={"held_at": DatabaseNow(), "expires_at": DatabaseNow(2)},
                )

    def schedule(self) -> None:
        """Add schedules whose slots must each get one task, whatever happens."""
        from bgtask.schedules import edit
        from bgtask.schedules.definition import check_definition
        from tests.system.faults import tasks

        for number in range(SCHEDULES):
            options = {"every": 1 + number, "misfire": "all", "overlap": "allow"}
            definition = check_definition(tasks.quick.name, f"[[{number}], {{}}]", **options)
            edit.create(f"chaos {number}", definition)

    def edit_schedule(self) -> None:
        from bgtask.models import Schedule
        from bgtask.schedules import edit
        from bgtask.schedules.definition import Definition

        schedule = Schedule.objects.get(key=f"chaos {self.random.randrange(SCHEDULES)}")
        changed = {**vars(Definition.of(schedule)), "jitter": self.random.randrange(5)}
        edit.change(schedule, Definition(**changed))

    def wrong_slots(self) -> list[str]:
        """Return what is wrong: a slot that is missing, or that has no task of its own."""
        from bgtask.models import Schedule, Task

        found = []
        stored = set(Task.objects.values_list("pk", flat=True))
        for schedule in Schedule.objects.all():
            rows = list(schedule.slots.order_by("slot").values_list("slot", "task"))
            seconds = float(schedule.expression)
            found += [
                f"{schedule}: nothing between {one} and {other}"
                for (one, _), (other, _) in pairwise(rows)
                if (other - one).total_seconds() != seconds
            ]
            tasks = [task for _, task in rows]
            if len(set(tasks)) != len(tasks) or not stored.issuperset(tasks):
                found.append(f"{schedule}: {len(rows)} slots, {len(set(tasks) & stored)} tasks")
        return found

    # Faults

    def strike(self) -> None:
        faults: list[Callable[[], None]] = self.random.sample(
            [
                self.kill_worker, self.kill_child, self.kill_supervisor, self.kill_all,
                self.freeze_worker, self.terminate, self.snapshot,
            ],
            k=self.random.choice((1, 2)),
        )  # fmt: skip
        if self.server.has_server:
            faults.append(
                self.random.choice(
                    (self.restart, self.crash, self.outage, self.cut_connections, self.read_only,
                     self.slow_wire, self.cut_wire, self.freeze_wire)
                )
            )  # fmt: skip
        else:
            faults.append(self.random.choice((self.write_lock, self.vacuum)))
        threads = [threading.Thread(target=self._noted(fault), daemon=True) for fault in faults]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _noted(self, fault: Callable[[], None]) -> Callable[[], None]:
        chance = random.Random(self.random.random())

        def run() -> None:
            self._chance.random = chance
            self.faults[fault.__name__] += 1
            try:
                fault()
            except Exception as error:
                print(f"{fault.__name__}: {error!r}", file=sys.stderr, flush=True)
            if fault.__name__ in ("restart", "crash", "outage", "read_only", "freeze_wire"):
                self.healed.append(time.monotonic())

        return run

    def kill_worker(self) -> None:
        self.testbed.kill(self.random.choice(self.crew[1:]).pid)

    def kill_child(self) -> None:
        from tests.processes import descendants

        if children := descendants(self.crew[0].pid):
            self.testbed.kill(self.random.choice(children))

    def kill_supervisor(self) -> None:
        self.testbed.kill(self.crew[0].pid)

    def kill_all(self) -> None:
        from tests.processes import descendants

        for child in list(self.crew):
            for pid in [child.pid, *descendants(child.pid)]:
                self.testbed.kill(pid)

    def freeze_worker(self) -> None:
        from tests.processes import descendants

        child = self.random.choice(self.crew)
        pids = [child.pid, *descendants(child.pid)]
        self.testbed.send(pids, signal.SIGSTOP)
        time.sleep(self.random.choice((0.5, 2, 5, 8)))
        self.testbed.send(pids, signal.SIGCONT)

    def terminate(self) -> None:
        child = self.random.choice(self.crew)
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(signal.SIGTERM)
            if self.random.random() < 0.3:
                time.sleep(0.3)
                child.send_signal(signal.SIGTERM)

    def snapshot(self) -> None:
        with contextlib.suppress(Exception), self.server.snapshot():
            time.sleep(self.random.uniform(1, 10))

    def restart(self) -> None:
        self.server.restart()

    def crash(self) -> None:
        self.server.crash()
        self.server.start()

    def outage(self) -> None:
        """Stop the server for less or more than a lease."""
        self.server.stop()
        time.sleep(self.random.choice((1, 6)))
        self.server.start()

    def cut_connections(self) -> None:
        for _ in range(self.random.randint(1, 20)):
            self.server.cut_all()
            time.sleep(0.05)

    def read_only(self) -> None:
        with self.server.read_only():
            time.sleep(self.random.uniform(0.5, 5))

    def slow_wire(self) -> None:
        self.proxy.delay, self.proxy.cuts = self.random.uniform(0.01, 0.2), 0.05
        time.sleep(self.random.uniform(1, 8))
        self.proxy.delay = self.proxy.cuts = 0.0

    def cut_wire(self) -> None:
        for _ in range(self.random.randint(1, 10)):
            self.proxy.cut()
            time.sleep(0.1)

    def freeze_wire(self) -> None:
        self.proxy.freeze()
        time.sleep(self.random.choice((1, 5, 12)))
        if self.random.random() < 0.5:
            self.proxy.cut()
        self.proxy.thaw()

    def write_lock(self) -> None:
        with self.server.write_lock():
            time.sleep(self.random.choice((0.5, 2, 5)))

    def vacuum(self) -> None:
        from django.db import connections

        try:
            connections["default"].cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connections["default"].cursor().execute("VACUUM")
        finally:
            connections["default"].close()

    # The end

    def settle(self) -> float:
        """Return the seconds from the end of all faults until every task has ended."""
        from django.db import Error, connections

        from bgtask.db import DatabaseNow
        from bgtask.models import QueuePause, Schedule, Task, TaskHold, Worker

        told = started = time.monotonic()
        while time.monotonic() < started + END:
            try:
                Schedule.objects.filter(paused_at=None).update(paused_at=DatabaseNow())
                TaskHold.objects.all().delete()
                QueuePause.objects.all().delete()
                Task.objects.unhold()
                live = Task.objects.live().values("id", "task_name", "status", "crashes", "run_at")
                if not live.exists():
                    break
                if time.monotonic() > told + 10:
                    told = time.monotonic()
                    workers = Worker.objects.living().values_list("pk", "pid", "heartbeat_at")
                    print(*live[:5], *workers, sep="\n", file=sys.stderr, flush=True)
            except Error:
                connections["default"].close()
            time.sleep(0.5)
        return time.monotonic() - started

    def crew_figures(self) -> list[dict[str, int]]:
        from tests.processes import descendants
        from tests.system.faults.testbed import figures

        pids = [pid for child in self.crew for pid in [*descendants(child.pid), child.pid]]
        return [figures(pid) for pid in pids]

    def report(self, seconds: float, settled: float, leaks: list[dict[str, int]]) -> dict[str, Any]:
        from bgtask.models import Attempt, Slot, Task, Worker
        from tests.system.faults.audit import audit

        for child in self.crew:
            child.send_signal(signal.SIGTERM)
        last = [child.wait(60) for child in self.crew]
        found = audit(self.testbed.execution_log, self.committed, self.testbed.deaths)
        torn = [
            name
            for name, (size, committed) in self.batches.items()
            if Task.objects.filter(verbose_name=name).count()
            not in ((size,) if committed else (0, size))
        ]
        starts = sorted(one.start.monotonic for one in self.testbed.execution_log.executions())
        healing = [
            min((start for start in starts if start > healed), default=healed) - healed
            for healed in self.healed
        ]
        innocent = Task.objects.failed().exclude(task_name__endswith="poison")
        bulk = sum(size for size, committed in self.batches.values() if committed)
        from django.db import connections

        connections.close_all()
        time.sleep(0.5)
        left = len(self.server.connection_ids())
        return {
            "minutes": round(seconds / 60, 1),
            "faults": dict(self.faults.most_common()),
            "faults_total": sum(self.faults.values()),
            "processes_killed": sum(map(len, self.testbed.deaths.values())),
            "processes_started": Worker.objects.count(),
            "enqueued": found.committed + bulk,
            "statuses": found.statuses,
            "executions_per_task": found.executions,
            "attempts_not_successful": dict(
                Counter(Attempt.objects.values_list("outcome", flat=True))
            ),
            "convicted_innocents": innocent.filter(error_class="bgtask.WorkerLost").count(),
            "overlaps": found.overlaps,
            "torn_batches": torn,
            "slots": Slot.objects.count(),
            "wrong_slots": self.wrong_slots()[:20],
            "keys_twice": self.keys_twice[:20],
            "wrong": {name: len(ids) for name, ids in found.faults().items()},
            "wrong_rows": found.rows() if found.faults() else [],
            "recovery_after_a_death": _spread(found.recovery),
            "first_start_after_an_outage": _spread(healing),
            "seconds_to_settle": round(settled, 1),
            "exit_statuses": dict(self.exits),
            "last_exit_statuses": last,
            "connections_left": left,
            "crew_at_the_end": leaks,
        }


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    values = sorted(values)
    return {
        "count": len(values),
        "median": round(statistics.median(values), 2),
        "p95": round(values[math.ceil(len(values) * 0.95) - 1], 2),
        "greatest": round(values[-1], 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.system.faults.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--database", choices=VENDORS, default="sqlite")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()

    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bgtask-chaos-")))
        mine = stack.enter_context(server(VENDORS[options.database], durable=True))
        os.environ |= {
            "BGTASK_TEST_DATABASE": json.dumps(mine.settings),
            "BGTASK_TEST_APPS": "tests.system.faults",
            "DJANGO_SETTINGS_MODULE": "tests.settings",
        }
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
        from tests.system.faults.testbed import Testbed, proxied

        proxy = stack.enter_context(proxied(mine))
        testbed = Testbed(mine, directory, proxy)
        stack.callback(testbed.close)
        chaos = Chaos(testbed, options.seed)
        figures = {"database": options.database, "seed": options.seed}
        figures |= chaos.run(options.minutes * 60)
        names = ("wrong", "torn_batches", "connections_left", "wrong_slots", "keys_twice")
        wrong = any(figures[name] for name in names)
        if wrong:
            print(testbed.output())
    text = json.dumps(figures, indent=2, default=str)
    for name, value in figures.items():
        print(f"{name:28} {value}")
    if options.json:
        options.json.write_text(text + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
