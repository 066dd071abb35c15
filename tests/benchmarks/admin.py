"""
Measure how fast the dashboard is with many tasks.

    python -m tests.benchmarks.admin                              two million tasks, on SQLite
    python -m tests.benchmarks.admin --database postgresql --rows 200000

Each page is requested as by a browser without JavaScript. A superuser requests it, and a member of
staff who has the rights of the dashboard. Then 50,000 failed tasks are requeued while another
process claims tasks.

The module is long because it lists every page and filter that is measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any
from urllib.parse import urlencode

import django

from bgtask.lifecycle.claim import claim_queue
from bgtask.lifecycle.finish import finish_attempts
from tests.databases import DATABASES

MILLISECONDS, QUERIES, PROBE, RATE = 150, 12, 50, 10_000
PAGES = "/admin/bgtask/task/"
DASHBOARD = "/admin/bgtask_admin/"
MANY = {"status": "FAILED", "since": "140h"}  # Five failures in six: 50,000 of 60,000.
AMPLE = 400_000
PACE = 15_000  # Tasks a second of _claim(). One process_tasks reaches it on either database.
IN_HAND = 800


@dataclass(frozen=True)
class Line:
    what: str
    who: str
    queries: int
    milliseconds: float
    least: float
    cpu: float  # Milliseconds a request of this process and of the server, whatever the load.
    within: float
    note: str = ""

    @property
    def verdict(self) -> str:
        good = self.milliseconds <= self.within and self.queries <= QUERIES and not self.note
        return "yes" if good else f"**no** {self.note}".strip()

    def row(self) -> str:
        return (
            f"| {self.what} | {self.who} | {self.queries} | {self.milliseconds:.0f} "
            f"| {self.least:.0f} | {self.cpu:.0f} | ≤ {self.within:g}, ≤ {QUERIES} queries "
            f"| {self.verdict} |"
        )


def main() -> int:
    options = _parse()
    with DATABASES[options.database]() as settings:
        os.environ["BGTASK_TEST_DATABASE"] = json.dumps(settings)
        os.environ["BGTASK_TEST_APPS"] = "tests.benchmarks"
        os.environ["BGTASK_TEST_SETTINGS"] = json.dumps({"MONITOR_TOKENS": ["only-for-benchmarks"]})
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
        django.setup()
        return _measure(options)


def _measure(options: argparse.Namespace) -> int:
    from django.core.management import call_command
    from django.db import connection

    from tests.benchmarks import dashboard

    call_command("migrate", verbosity=0)
    began = time.monotonic()
    dashboard.build(options.rows)
    _say(f"{options.rows:,} tasks after {time.monotonic() - began:.0f} s")

    load = os.getloadavg()[0]
    clients = _clients()
    lines = []
    for what, url in _urls():
        if options.only not in what:
            continue
        for who, client in clients.items():
            lines.append(_ask(what, who, client, url, MILLISECONDS, options.repeat))
            _say(lines[-1].row())
    if not options.only:
        for name in ("health", "stats"):
            url = f"/bgtask/{name}"
            lines.append(_ask(f"/{name}", "token", _prober(), url, PROBE, options.repeat))
    version = ".".join(map(str, connection.get_database_version()))
    sys.stdout.write(
        f"{options.database} {version}, Python {platform.python_version()}, "
        f"Django {django.get_version()}, {options.rows:,} tasks, {os.cpu_count()} cores, "
        f"load {load:.1f} before and {os.getloadavg()[0]:.1f} after, {options.repeat} requests\n\n"
        "| page | who | queries | median ms | least | CPU ms | goal | met |\n"
        "|---|---|--:|--:|--:|--:|---|---|\n"
    )
    for line in lines:
        sys.stdout.write(f"{line.row()}\n")
    if not options.only:
        sys.stdout.write(f"\n{_requeue()}\n")
    return 0


def _clients() -> dict[str, Any]:
    from django.contrib.auth import get_user_model
    from django.contrib.auth.models import Permission
    from django.test import Client

    users = get_user_model().objects
    boss = users.create_superuser("boss")
    staff = users.create_user("staff", is_staff=True)
    staff.user_permissions.set(
        Permission.objects.filter(content_type__app_label__in=("bgtask", "bgtask_admin"))
    )
    clients = {"superuser": Client(raise_request_exception=False),
               "staff": Client(raise_request_exception=False)}  # fmt: skip
    clients["superuser"].force_login(boss)
    clients["staff"].force_login(staff)
    return clients


def _prober() -> Any:
    from django.test import Client

    return Client(headers={"Authorization": "Bearer only-for-benchmarks"})


def _urls() -> Iterator[tuple[str, str]]:
    from bgtask.models import Task
    from bgtask_admin.actions import run
    from bgtask_admin.tasks.selection import Selection

    def tasks(**query: str) -> str:
        return f"{PAGES}?{urlencode(query)}"

    for span in ("1h", "24h", "7d"):
        yield f"landing, {span}", f"{DASHBOARD}queuehealth/?span={span}"
    yield "tasks, all", PAGES
    for status in ("READY", "SCHEDULED", "RUNNING", "HELD", "FAILED", "CANCELLED", "SUCCESSFUL"):
        yield f"tasks, {status}", tasks(status=status)
    error = Task.objects.failed().exclude(error_fingerprint="").earliest("pk")
    name, kind, group = error.task_name, error.error_class, error.error_fingerprint
    for status in ("READY", "SCHEDULED", "FAILED", "SUCCESSFUL"):
        yield f"{status} + queue", tasks(status=status, queue="mail")
        yield f"{status} + task", tasks(status=status, task=name)
    yield "queue alone", tasks(queue="mail")
    yield "task alone", tasks(task=name)
    yield "FAILED + error class", tasks(status="FAILED", error_class=kind)
    yield "FAILED + error class, no match", tasks(status="FAILED", error_class="NoSuchError")
    yield "error class alone", tasks(error_class=kind)
    yield "FAILED + error group", tasks(status="FAILED", fingerprint=group)
    for window in ("1h", "24h", "7d"):
        for label, text in (("a hit", "gateway 3 answered"), ("no hit", "no such text")):
            yield (
                f"error text, {window}, {label}",
                tasks(status="FAILED", error=text, since=window),
            )
    yield "argument alone", tasks(argument="user_id:4242")
    for status in ("READY", "FAILED", "SUCCESSFUL"):
        yield f"{status} + argument", tasks(status=status, argument="user_id:4242")
        yield f"{status} + argument, no match", tasks(status=status, argument="user_id:99999")
    yield "FAILED + age", tasks(status="FAILED", since="6h", until="1h")
    yield "SUCCESSFUL + age", tasks(status="SUCCESSFUL", since="6d", until="2d")
    yield "age alone", tasks(since="24h")
    yield "FAILED + attempts", tasks(status="FAILED", attempts_min="20")
    yield "SUCCESSFUL + attempts, no match", tasks(status="SUCCESSFUL", attempts_min="20")
    yield "FAILED + worker", tasks(status="FAILED", worker="app-2:4002")
    yield "SUCCESSFUL + worker, no match", tasks(status="SUCCESSFUL", worker="nobody:1")
    for text in (str(error.pk), name, "status:failed", "refused", "queue:mail class:KeyError",
                 "args.user_id:4242", '"gateway 3 answered"', "since:1h queue:mail"):  # fmt: skip
        yield f"search `{text}`", tasks(q=text)
    deep = Task.objects.succeeded().filter(pk__lte=error.pk + 900_000).latest("pk")
    assert deep.finished_at is not None
    key = f"{deep.finished_at.isoformat()}~{deep.pk}"
    yield "a page a million deep", tasks(status="SUCCESSFUL", after=key)
    yield "the page before it", tasks(status="SUCCESSFUL", before=key)
    yield "error group", f"{DASHBOARD}queuehealth/error/{group}/"
    yield "task, failed", f"{PAGES}{error.pk}/change/"
    yield "task, successful", f"{PAGES}{deep.pk}/change/"
    yield "confirm 50,000", f"{PAGES}confirm/?{urlencode({'verb': 'requeue', **MANY})}"
    yield "hold a task type", f"{DASHBOARD}queuehealth/hold/?name={name}"
    yield "pause a queue", f"{DASHBOARD}queuehealth/pause/?name=mail"
    for number in range(60):
        selection = Selection.parse_narrow({"id": str(deep.pk + number)})
        run.do("requeue", selection, by="ann")
    yield "operations log", f"{DASHBOARD}operation/"


def _ask(
    what: str, who: str, client: Any, url: str, within: float, repeat: int
) -> Line:  # fmt: skip
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from bgtask_admin.monitoring import snapshot

    times, queries, note, used = [], 0, "", 0.0
    for number in range(repeat + 1):
        snapshot.forget()
        with CaptureQueriesContext(connection) as captured:
            if number:  # To record the queries would take time.
                connection.force_debug_cursor = False
                used = used or _cpu()
            began = time.perf_counter()
            response = client.get(url)
            b"".join(response)
            took = (time.perf_counter() - began) * 1000
        if number:
            times.append(took)
        else:
            queries = len(captured)
        if response.status_code not in (200, 503):
            note = f"answered {response.status_code}"
    cpu = (_cpu() - used) * 1000 / repeat
    return Line(what, who, queries, median(times), min(times), cpu, within, note)


def _cpu() -> float:
    """Return the CPU seconds used so far, here and by the server for this connection."""
    from django.db import connection

    from tests.benchmarks.harness import cpu_of

    if connection.vendor != "postgresql":
        return time.process_time()
    return time.process_time() + cpu_of(connection.connection.info.backend_pid)


def _requeue() -> str:
    """Requeue 50,000 tasks in the steps of a page, while a process claims and finishes tasks."""
    from bgtask.models import Task
    from bgtask_admin.actions import run
    from bgtask_admin.actions.preview import Preview
    from bgtask_admin.actions.registry import ACTIONS
    from bgtask_admin.tasks.selection import Selection

    Task.objects.enqueue_many("shop.claimed", (((n,), {}) for n in range(AMPLE)), queue="bench")
    context = multiprocessing.get_context("spawn")
    claimed, stop = context.Value("l", 0), context.Event()
    claimer = context.Process(target=_claim, args=(claimed, stop), daemon=True)
    claimer.start()
    _until(lambda: claimed.value > 0)

    before = _rate(claimed, lambda: time.sleep(4))
    preview = Preview.take(ACTIONS["requeue"], Selection.parse_narrow(MANY))
    operation = run.start(preview, {}, by="ann")
    seconds = []

    def requeue() -> None:
        began = time.monotonic()
        while operation.is_running:
            run.step(operation)
        seconds.append(time.monotonic() - began)

    during = _rate(claimed, requeue)
    stop.set()
    claimer.join(30)
    rate = operation.changed / seconds[0]
    return (
        "| requeue by filter | figure | goal | met |\n|---|--:|---|---|\n"
        f"| {operation.changed:,} tasks in {seconds[0]:.1f} s | {rate:,.0f} /s | ≥ {RATE:,} /s "
        f"| {'yes' if rate >= RATE else '**no**'} |\n"
        f"| claimed and finished beside it | {during:,.0f} /s | as before: {before:,.0f} /s "
        f"| {'yes' if during >= 0.8 * before else '**no**'} ({during / before:.0%}) |"
    )


def _rate(counter: Any, work: Callable[[], object]) -> float:
    first, began = counter.value, time.monotonic()
    work()
    return float(counter.value - first) / (time.monotonic() - began)


def _claim(counter: Any, stop: Any) -> None:
    """Claim and finish a hundred tasks at a time, at PACE. Run in a process of its own."""
    django.setup()
    from bgtask.lifecycle.attempts import Outcome
    from bgtask.models import Worker
    from bgtask.status import Status

    worker = Worker.objects.earliest("started_at")
    due = time.monotonic()
    while not stop.is_set():
        time.sleep(max(due - time.monotonic(), 0))
        # A worker may hold IN_HAND claimed tasks, so a delay of up to so many tasks is made up for.
        # A longer delay is not.
        due = max(due, time.monotonic() - IN_HAND / PACE) + 100 / PACE
        tasks = claim_queue(worker, "bench", 100)
        if not tasks:
            return
        finish_attempts([Outcome(task, Status.SUCCESSFUL, 0.0) for task in tasks])
        counter.value += len(tasks)


def _until(answer: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not answer():
        if time.monotonic() > deadline:
            raise AssertionError("The process that claims does not.")
        time.sleep(0.01)


def _say(what: str) -> None:
    sys.stderr.write(f"{what}\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.admin", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--database", choices=DATABASES, default="sqlite")
    parser.add_argument("--rows", type=int, default=2_000_000, metavar="N")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="default 5")
    parser.add_argument("--only", default="", metavar="TEXT", help="pages whose name holds this")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
