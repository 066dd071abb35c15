"""Print the figures of the queues and the workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, InterfaceError

import bgtask
from bgtask import health
from bgtask.health import Health, QueueHealth, duration
from bgtask.management.arguments import queue_name, queue_names, without_usage

HEADINGS = (
    "queue", "status", "ready", "oldest", "scheduled", "running", "held", "failed attempts",
    "per minute",
)  # fmt: skip


class Command(BaseCommand):
    help = "Print the figures of the queues and the workers, for people or as JSON."

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        return without_usage(super().create_parser(*args, **kwargs))

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--json",
            action="store_true",
            dest="as_json",
            help="As JSON; docs/monitoring/stats.schema.json describes it.",
        )

        parser.add_argument(
            "--queue",
            action="append",
            dest="queues",
            type=queue_name,
            metavar="NAME",
            help="Print this queue only; may be repeated.",
        )

    def handle(self, **options: Any) -> None:
        try:
            verdict = health.check(queue_names(options["queues"]))
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        except (DatabaseError, InterfaceError) as error:
            raise CommandError(f"The database cannot be read: {error}") from error
        if options["as_json"]:
            document = health.as_document(verdict, bgtask.__version__)
            self.stdout.write(json.dumps(document, ensure_ascii=False, indent=2))
        else:
            for line in _lines(verdict):
                self.stdout.write(line)


def _lines(verdict: Health) -> Iterator[str]:
    yield verdict.sentence
    yield ""
    if verdict.queues:
        shown, omitted = health.notable(verdict.queues)
        yield from _table([HEADINGS, *(_row(queue) for queue in shown)])
        if omitted:
            yield f"… and {len(omitted):,} more queues with less to do; --queue NAME prints one."
        yield ""
    if verdict.failed_tasks is not None:
        yield f"failed tasks: {verdict.failed_number}"
    workers = verdict.workers
    said = f"{workers.alive} alive with {workers.threads} threads, {workers.busy} tasks running"
    if workers.stopping:
        said += f", {workers.stopping} stopping"
    if workers.silent:
        said += f", {workers.silent} silent"
    yield f"workers: {said}; last heartbeat at most {duration(workers.heartbeat_age_max)} ago"


def _row(queue: QueueHealth) -> tuple[str, ...]:
    failed = f"{queue.failed_window:,}"
    if queue.failure_ratio is not None:
        failed += f" ({queue.failure_ratio:.0%})"
    return (
        queue.name,
        "paused" if queue.paused else queue.status.value,
        f"{queue.ready:,}",
        duration(queue.oldest_ready_age) if queue.oldest_ready_since else "-",
        f"{queue.scheduled:,}",
        f"{queue.running:,}",
        f"{queue.held:,}",
        failed,
        f"{queue.throughput_per_minute:,.1f}",
    )


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, status, *numbers in rows:
        cells = [name.ljust(widths[0]), status.ljust(widths[1])]
        cells += [text.rjust(width) for text, width in zip(numbers, widths[2:], strict=True)]
        yield "  ".join(cells).rstrip()
