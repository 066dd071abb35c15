"""Run the demo from its beginning to its end."""

from __future__ import annotations

import errno
import socket
import time
from dataclasses import dataclass
from datetime import date

from django.core.management import CommandError, call_command
from django.core.management.base import OutputWrapper
from django.core.management.color import Style
from django.db import transaction

from bgtask.models import Task
from bgtask.status import Status
from example_project.members.conf import settings
from example_project.members.demo import payments_file, scenario, summary
from example_project.members.demo.folder import emptied, short
from example_project.members.demo.processes import Child, Children
from example_project.members.demo.progress import Progress
from example_project.members.demo.scenario import ADMIN, WAITING, Batch
from example_project.members.demo.summary import Check, Rows
from example_project.members.payments import Sums

THREADS = 4
PATIENCE = 30.0  # Seconds without any progress, after which the demo stops waiting.


@dataclass(frozen=True)
class Work:
    """The enqueued tasks, and the sums that the report should show."""

    batches: list[Batch]
    sums: dict[int, Sums]

    @property
    def today(self) -> list[Batch]:
        """Return the batches whose time comes while the demo runs."""
        return [batch for batch in self.batches if batch.expected != WAITING]

    def __len__(self) -> int:
        return sum(batch.count for batch in self.batches)


class Demo:
    def __init__(self, out: OutputWrapper, style: Style, *, host: str, port: int) -> None:
        self._out = out
        self._style = style
        self._host = host
        self._port = port
        self._folder = settings.SITE_DIR
        self._password = ""

    def run(self, *, serve: bool) -> bool:
        """
        Run the whole demo; return whether every task ended as it should.

        Raise CommandError if the demo can't run here.
        """
        if serve:
            self._check_port()
        with emptied(self._folder), Children() as children:
            try:
                work = self._prepare()
                worker = self._start_worker(children)
                rows = self._watch(work, worker)
                self._describe(rows)
                checks = [*summary.check_everything(work.batches, rows, work.sums)]
                if not serve:
                    checks.append(_stop(worker))
                self._conclude(checks)
                if serve:
                    self._serve(children, worker)
            except KeyboardInterrupt:
                self._say("\nStopping the worker.")
                raise
        return all(check.good for check in checks)

    @property
    def _address(self) -> str:
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    def _check_port(self) -> None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family) as probe:
            # The web server sets this option too, so that a server that just ended is not in the
            # way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host, self._port))
            except OSError as error:
                reason = f"The site cannot be served at {self._address}: {error.strerror}."
                if error.errno == errno.EADDRINUSE:
                    reason += f" Choose another port: manage.py demo --port={self._port + 1}"
                raise CommandError(reason) from None

    def _prepare(self) -> Work:
        self._say(f"A new membership site in {short(self._folder)}")
        call_command("migrate", verbosity=0)
        today = date.today()
        with transaction.atomic():
            self._password = scenario.make_admin()
            members = scenario.make_members(today)
        sums = payments_file.write(today.year - 1, [member.number for member in members])
        # All tasks appear with the commit. A worker sees none of them before.
        with transaction.atomic():
            work = Work(scenario.enqueue(members, today.year - 1), sums)
        self._say(
            f"{len(members)} members, {payments_file.ROWS:,} payments of {today.year - 1}, "
            f"{len(work)} tasks enqueued"
        )
        self._say(f"Login: {ADMIN}, password: {self._password}\n")
        return work

    def _start_worker(self, children: Children) -> Child:
        self._say(f"manage.py process_tasks --threads={THREADS}")
        log = self._folder / "worker.log"
        return children.start("The worker", "process_tasks", f"--threads={THREADS}", log=log)

    def _watch(self, work: Work, worker: Child) -> Rows:
        """Show the progress until all tasks stand as they should or none moves; return the rows."""
        today = work.today
        total = sum(batch.count for batch in today)
        progress = Progress(total, self._out)
        best, moved = -1, time.monotonic()
        try:
            while True:
                worker.check()
                rows = summary.read_rows()
                done = summary.count_as_expected(today, rows)
                if done > best:
                    best, moved = done, time.monotonic()
                claimed = sum(row.status == Status.RUNNING for row in rows.values())
                is_last = done == total or time.monotonic() - moved > PATIENCE
                progress.show(done, claimed, last=is_last)
                if is_last:
                    return rows
                time.sleep(0.1)
        finally:
            progress.end()

    def _describe(self, rows: Rows) -> None:
        for line in summary.describe(rows):
            self._say(line if line.startswith(" ") else self._heading(line))

    def _conclude(self, checks: list[Check]) -> None:
        self._say(self._heading("Checked"))
        for check in checks:
            mark = self._style.SUCCESS("ok   ") if check.good else self._style.ERROR("wrong")
            self._say(f"  {mark} {check.text}")
        folder = short(self._folder)
        self._say(f"\nSee {folder}: outbox, media/cards, letters, worker.log")

    def _serve(self, children: Children, worker: Child) -> None:
        """Serve the site and keep the worker running, until Ctrl-C or until one of them ends."""
        log = self._folder / "site.log"
        site = children.start("The web server", "runserver", self._address, "--noreload", log=log)
        self._wait_for(site)
        self._say(f"\n{self._style.SUCCESS('The site is at')} http://{self._address}/")
        self._say(f"Its admin is at http://{self._address}/admin/")
        self._say(f"Login: {ADMIN}, password: {self._password}")
        self._say("Ctrl-C stops the site and the worker.")
        try:
            while True:
                worker.check()
                site.check()
                time.sleep(0.3)
        except KeyboardInterrupt:
            self._say("\nStopping the site and the worker.")

    def _wait_for(self, site: Child) -> None:
        while True:
            site.check()
            try:
                socket.create_connection((self._host, self._port), timeout=1).close()
            except OSError:
                time.sleep(0.1)
            else:
                return

    def _heading(self, line: str) -> str:
        return "\n" + self._style.MIGRATE_HEADING(line)

    def _say(self, line: str) -> None:
        self._out.write(line)
        self._out.flush()


def _stop(worker: Child) -> Check:
    status = worker.stop()
    left = Task.objects.filter(status=Status.RUNNING).count()
    return Check(
        status == 0 and not left,
        f"the worker stopped when asked to (status {status}), with {left} tasks left running",
    )
