"""Run background tasks."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error, ProgrammingError, connections
from django.utils import autoreload

from bgtask.conf import get_settings, require_autocommit
from bgtask.management.arguments import queue_name
from bgtask.models.transactions import TransactionsRefused, check_transactions
from bgtask.runner import Runner, output
from bgtask.runner.alarm import Alarm
from bgtask.runner.care import without_pools
from bgtask.runner.child import leave_with_parent, tell_on
from bgtask.runner.connecting import prepared_connections
from bgtask.runner.supervisor import Supervisor
from bgtask.runner.watchdog import limit_waiting

SLACK = 5.0  # Seconds beyond all patience, after which a process that is to stop is ended.


class Command(BaseCommand):
    help = "Run background tasks that are due, and go on as they become so."

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        # In full only: a supervisor starts its children by this command line, without some of it.
        parser = super().create_parser(*args, allow_abbrev=False, **kwargs)
        parser.print_usage = lambda file=None: None  # type: ignore[method-assign]
        return parser  # What is wrong is said in one line; --help says the rest.

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--duration", type=_seconds, default=0.0, metavar="SECONDS",
            help="Stop after so many seconds; the tasks that run are awaited. 0, the default: "
                 "go on for ever.")  # fmt: skip
        add("--sleep", type=_pause, default=5.0, metavar="SECONDS",
            help="Look again after so many seconds when nothing was found; default 5.")  # fmt: skip
        add("--log-file", metavar="FILE", help="Write the log to this file as well.")
        add("--log-std", action="store_true",
            help="What tasks print goes to the log.")  # fmt: skip
        add("--log-level", type=str.upper, choices=output.LEVELS, metavar="LEVEL",
            help=f"One of {', '.join(output.LEVELS)}.")  # fmt: skip
        add("--queue", action="append", dest="queues", type=queue_name, metavar="NAME",
            help="Serve only this queue; may be repeated.")  # fmt: skip
        add("--threads", type=_count, default=1, metavar="N",
            help="Run so many tasks at once in each process; default 1.")  # fmt: skip
        add("--processes", type=_count, default=1, metavar="N",
            help="Run so many processes, watched over by this one; default 1.")  # fmt: skip
        add("--drain", action="store_true", help="Stop when nothing is due.")
        add("--max-tasks", type=_whole, metavar="N",
            help="Stop after so many tasks; with --processes, be replaced then.")  # fmt: skip
        add("--reload", action="store_true",
            help="Begin anew when code has changed. For development.")  # fmt: skip
        add("--supervised", type=int, metavar="FD", help=argparse.SUPPRESS)

    def handle(self, **options: Any) -> None:
        from bgtask.models import Task

        try:
            get_settings()
            require_autocommit(Task.objects.all().db)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        if options["reload"] and options["processes"] > 1:
            raise CommandError("--reload goes with one process.")
        if options["processes"] > 1 and not self._called_from_command_line:  # type: ignore[attr-defined]
            raise CommandError("--processes starts this command line anew, and here is none.")
        if self._called_from_command_line:  # type: ignore[attr-defined]
            without_pools()  # In a process of our own, that is.
        threads = set(threading.enumerate())
        with contextlib.ExitStack() as stack:
            stack.enter_context(prepared_connections())
            try:
                stack.enter_context(
                    output.directed(options["log_file"], options["log_level"], options["log_std"])
                )
            except OSError as error:
                raise CommandError(
                    f"--log-file {options['log_file']}: {error.strerror or error}."
                ) from error
            clean = self._process(options)
        self._leave(clean, threads)

    def _process(self, options: dict[str, Any]) -> bool:
        if options["processes"] > 1 and not options["supervised"]:
            return self._supervise(options)
        if options["reload"]:
            self._reload(options)
            return True
        return self._run(**options)

    def _run(self, **options: Any) -> bool:
        _check_database()
        runner = Runner(
            queues=options["queues"],
            threads=options["threads"],
            sleep=options["sleep"],
            duration=options["duration"],
            drain=options["drain"],
            max_tasks=options["max_tasks"],
            tell=options["supervised"] and tell_on(options["supervised"]),
        )
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(_ended_in_time(runner.stop))
            stack.enter_context(_stopped_by_signals(stop))
            if options["reload"]:
                stack.enter_context(self._reachable(stop))
            if options["supervised"]:
                leave_with_parent(stop)
            try:
                return runner.run()
            except TransactionsRefused as error:
                raise CommandError(str(error)) from error

    def _reload(self, options: dict[str, Any]) -> None:
        """Django's reloader has the main thread, and the runner one of its own, until it ends."""
        self._stop: Callable[[], None] = lambda: None
        self._has_left = threading.Event()
        self._has_left.set()
        if os.environ.get(autoreload.DJANGO_AUTORELOAD_ENV) != "true":
            # Ctrl-C reaches the process that is begun anew as well; this one is to wait for it.
            signal.signal(signal.SIGINT, lambda *_: None)
        try:
            autoreload.run_with_reloader(self._run, **options)
        finally:
            self._stop()
            self._has_left.wait(get_settings().grace_period + SLACK)

    @contextlib.contextmanager
    def _reachable(self, stop: Callable[[], None]) -> Iterator[None]:
        self._stop = stop
        self._has_left.clear()
        try:
            yield
        finally:
            self._has_left.set()

    def _supervise(self, options: dict[str, Any]) -> bool:
        _check_database()
        supervisor = Supervisor(sys.argv, options["processes"], options["duration"])
        with _stopped_by_signals(supervisor.stop):
            return supervisor.run()

    def _leave(self, clean: bool, threads: set[threading.Thread]) -> None:
        """At once, even if a task left threads behind, for which Python would wait."""
        left = {thread for thread in threading.enumerate() if not thread.daemon} - threads
        if self._called_from_command_line and (left or not clean):  # type: ignore[attr-defined]
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0 if clean else 1)
        if not clean:
            raise CommandError("A task was left running, or its outcome unwritten.")


@contextlib.contextmanager
def _ended_in_time(stop: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """
    GRACE_PERIOD for what runs, as much again to write it down; no database keeps us beyond that.

    The thread that sees to it is there from the beginning: a handler that started it could find
    the main thread starting one, and wait for a lock that is its own.
    """
    alarm, left = Alarm(), threading.Event()

    def end() -> None:
        while not alarm.sleep(3600.0):
            pass
        if not left.wait(2 * get_settings().grace_period + SLACK):
            os._exit(1)

    def stop_in_time() -> None:
        stop()
        alarm.ring()

    thread = threading.Thread(target=end, name="bgtask-end", daemon=True)
    thread.start()
    try:
        yield stop_in_time
    finally:
        left.set()
        alarm.ring()
        thread.join()
        alarm.close()


@contextlib.contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread may; with --reload it is Django's.
        return
    before = {
        signum: signal.signal(signum, lambda *_: stop())
        for signum in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _check_database() -> None:
    """Refuse to start where waiting would not help."""
    from bgtask.models import Worker

    alias = Worker.objects.all().db
    limit_waiting(alias)  # Before the first connection is made.
    try:
        list(Worker.objects.filter(pk=0))
        check_transactions(alias)
    except TransactionsRefused as error:
        raise CommandError(str(error)) from error
    except Error as error:
        connection = connections[alias]
        try:
            missing = Worker._meta.db_table not in connection.introspection.table_names()
        except Error:
            return  # The database is away: the runner waits for it.
        if missing:
            raise CommandError("The tables of bgtask are missing: run `migrate` first.") from error
        if isinstance(error, ProgrammingError):  # Not allowed. All else may pass.
            raise CommandError(f"The tables of bgtask cannot be read: {error}") from error


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number of seconds")
    return number


def _seconds(text: str) -> float:
    return max(_number(text), 0.0)


def _pause(text: str) -> float:
    number = _number(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is below zero")
    return max(number, 0.01)  # Even a hasty worker leaves the database to others for a moment.


def _count(text: str) -> int:
    """Of what this machine has to carry."""
    return _whole(text, 10_000)


def _whole(text: str, most: int = 10**9) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {most}")
    return number
