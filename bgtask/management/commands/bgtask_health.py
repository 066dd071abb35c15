"""Print the verdict as a Nagios plugin does: one line, and 0, 1, 2 or 3 as the exit code."""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any, NoReturn

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, InterfaceError

from bgtask import health
from bgtask.health import Health, Level, Thresholds
from bgtask.management.arguments import queue_name, queue_names

UNKNOWN = 3
EXIT_CODES = {Level.PASS: 0, Level.WARN: 1, Level.FAIL: 2}


class Command(BaseCommand):
    help = (
        "Say how the queues are, in one line for Nagios and similar tools. "
        "Exit code: 0 well, 1 warning, 2 critical, 3 unknown."
    )
    # If system checks failed, the exit code would be 1, which means a warning here. The output
    # would be longer than one line.
    requires_system_checks: tuple[str, ...] = ()

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--queue", action="append", dest="queues", type=queue_name, metavar="NAME",
            help="Look at this queue only; may be repeated.")  # fmt: skip
        add("--warn-age", type=_seconds, metavar="SECONDS",
            help="Warn where the oldest ready task has waited for longer, whatever the "
                 "settings say.")  # fmt: skip
        add("--crit-age", type=_seconds, metavar="SECONDS",
            help="Likewise, critical.")  # fmt: skip

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        refuse = parser.error

        def error(message: str) -> NoReturn:
            if not parser.called_from_command_line:
                refuse(message)
            self._unknown(message)  # argparse would exit with 2, which means critical.

        parser.error = error  # type: ignore[method-assign]
        return parser

    def handle(self, **options: Any) -> None:
        warn, crit = options["warn_age"], options["crit_age"]
        try:
            queues = queue_names(options["queues"])
        except CommandError as error:
            self._unknown(str(error))
        if warn is not None and crit is not None and warn > crit:
            self._unknown(f"--warn-age {warn:g} is later than --crit-age {crit:g}")
        try:
            thresholds = Thresholds.in_force().with_oldest_ready(warn, crit, queues or ())
            verdict = health.check(queues, thresholds)
        except ImproperlyConfigured as error:
            self._unknown(str(error))
        except (DatabaseError, InterfaceError) as error:
            self._unknown(f"the database cannot be read ({error})")
        line = f"BGTASK {verdict.status.word} - {verdict.summary}"
        self.stdout.write(f"{_one_line(line)} | {' '.join(_perfdata(verdict, thresholds))}")
        if code := EXIT_CODES[verdict.status]:
            sys.exit(code)

    def _unknown(self, why: str) -> NoReturn:
        self.stdout.write(f"BGTASK UNKNOWN - {_one_line(why)}")
        sys.exit(UNKNOWN)


def _one_line(text: str) -> str:
    """
    Return the text without line breaks and bars, and with escapes for what has no encoding.

    A line break would end the message. A bar would begin the figures.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    return " ".join(text.split()).replace("|", "/")


def _perfdata(verdict: Health, thresholds: Thresholds) -> list[str]:
    """Return figures as ``label=value[unit];warn;crit;min``. An empty limit means no limit."""
    figures = []
    shown, _omitted = health.notable(verdict.queues)
    for queue in shown:
        limits = thresholds.of(queue.name)
        age = _range(limits.oldest_ready)
        figures += [
            f"{queue.name}_age={queue.oldest_ready_age:.3f}s;{age};0",
            f"{queue.name}_ready={queue.ready};;;0",
        ]
        if queue.failure_ratio is not None:
            warn, fail = limits.failure_ratio or (None, None)
            ratio = _range(None if warn is None or fail is None else (warn * 100, fail * 100))
            figures.append(f"{queue.name}_failed={queue.failure_ratio * 100:.2f}%;{ratio};0;100")
    if verdict.failed_tasks is not None:
        figures.append(f"failed_tasks={verdict.failed_tasks};;;0")
    return [
        *figures,
        f"workers={verdict.workers.alive};;;0",
        f"stuck={verdict.stuck.total};0;;0",
    ]


def _range(limits: tuple[float, float] | None) -> str:
    return "{};{}".format(
        *(f"{limit:g}" if limit < math.inf else "" for limit in limits or (math.inf, math.inf))
    )


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return number
