"""Run background tasks."""

from __future__ import annotations

import argparse
import contextlib
import logging
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

from bgtask.conf import get_settings, require_autocommit
from bgtask.db.internals import is_from_command_line, is_restarted_by_reloader, run_with_reloader
from bgtask.db.routing import TransactionsRefused, check_transactions, queue_alias
from bgtask.management.arguments import queue_name, queue_names, without_usage
from bgtask.worker import Runner, logs
from bgtask.worker.child import leave_with_parent, reporter
from bgtask.worker.connections import disable_pooling, prepared_connections
from bgtask.worker.listeners import Waker
from bgtask.worker.supervisor import Supervisor
from bgtask.worker.watchdog import limit_waiting

SLACK = 5.0  # Seconds after all grace periods. A process that still has not stopped is ended then.


class Command(BaseCommand):
    help = "Run background tasks as they become due."

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        # Refuse abbreviated options. A supervisor starts its children with this command line and
        # leaves out some options, which it finds by their full names.
        return without_usage(super().create_parser(*args, allow_abbrev=False, **kwargs))

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--duration", type=_seconds, default=0.0, metavar="SECONDS",
            help="Stop after this many seconds, once the running tasks have finished. "
                 "Default: 0, never.")  # fmt: skip
        add("--sleep", type=_pause, default=5.0, metavar="SECONDS",
            help="Wait this many seconds after a poll that found no task. Default: 5.")  # fmt: skip
        add("--log-file", metavar="FILE", help="Also write the log to this file.")
        add("--log-std", action="store_true",
            help="Write what tasks print to the log.")  # fmt: skip
        add("--log-level", type=str.upper, choices=logs.LEVELS, metavar="LEVEL",
            help=f"One of {', '.join(logs.LEVELS)}. By default, --verbosity decides: "
                 "0 logs warnings and errors, 2 also each success, 3 everything.")  # fmt: skip
        add("--queue", action="append", dest="queues", type=queue_name, metavar="NAME",
            help="Run only tasks of this queue. May be repeated.")  # fmt: skip
        add("--threads", type=_count, default=1, metavar="N",
            help="Run up to this many tasks at once in each process. Default: 1.")  # fmt: skip
        add("--processes", type=_count, default=1, metavar="N",
            help="Start and supervise this many worker processes. Default: 1.")  # fmt: skip
        add("--drain", action="store_true", help="Stop when no task is due.")
        add("--max-tasks", type=_whole, metavar="N",
            help="Stop after this many tasks. With --processes, each process is then "
                 "replaced.")  # fmt: skip
        add("--reload", action="store_true",
            help="Restart when code changes. For development.")  # fmt: skip
        add("--supervised", type=int, metavar="FD", help=argparse.SUPPRESS)

    def handle(self, **options: Any) -> None:
        options["queues"] = queue_names(options["queues"])
        try:
            get_settings()
            require_autocommit(queue_alias())
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        if options["reload"] and options["processes"] > 1:
            raise CommandError("--reload cannot be combined with --processes above 1.")
        if options["processes"] > 1 and not is_from_command_line(self):
            raise CommandError("--processes can only be used from the command line.")
        if is_from_command_line(self):
            disable_pooling()  # Only in a process that runs nothing but this command.
        threads = set(threading.enumerate())
        with contextlib.ExitStack() as stack:
            stack.enter_context(prepared_connections())
            try:
                stack.enter_context(
                    logs.configured(options["log_file"], _log_level(options), options["log_std"])
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
            report=options["supervised"] and reporter(options["supervised"]),
            success_level=logging.INFO if options["verbosity"] > 1 else logging.DEBUG,
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
        """
        Run the runner with Django's reloader until it ends.

        The reloader has the main thread, and the runner has a thread of its own.
        """
        self._stop: Callable[[], None] = lambda: None
        self._has_left = threading.Event()
        self._has_left.set()
        if not is_restarted_by_reloader():
            # Ctrl-C also reaches the process that the reloader restarts. This process must wait
            # for that one to end.
            signal.signal(signal.SIGINT, lambda *_: None)
        try:
            run_with_reloader(self._run, **options)
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
        """
        End the process at once if a task left threads behind. Python would wait for them.

        Exit with 1, or raise CommandError, if the worker has not ended cleanly.
        """
        left = {thread for thread in threading.enumerate() if not thread.daemon} - threads
        if is_from_command_line(self) and (left or not clean):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0 if clean else 1)
        if not clean:
            raise CommandError(
                "The worker stopped before all of its tasks were finished and recorded."
            )


def _log_level(options: dict[str, Any]) -> str | None:
    """Return the level that the options ask for, or None to leave it to the project."""
    by_verbosity = {0: "WARNING", 2: "INFO", 3: "DEBUG"}
    level: str | None = options["log_level"] or by_verbosity.get(options["verbosity"])
    return level


@contextlib.contextmanager
def _ended_in_time(stop: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """
    Yield a function that stops the worker, and that ends the process if stopping takes too long.

    Running tasks get GRACE_PERIOD to end, and their outcomes as long again to be written. Then the
    process exits, even if a database doesn't answer.

    The thread that ends the process is started in advance, not by the signal handler. The handler
    might interrupt the main thread while that thread starts another one. The handler would then
    wait for a lock that the main thread itself holds.
    """
    waker, left = Waker(), threading.Event()

    def end() -> None:
        while not waker.sleep(3600.0):
            pass
        if not left.wait(2 * get_settings().grace_period + SLACK):
            os._exit(1)

    def stop_in_time() -> None:
        stop()
        waker.wake()

    thread = threading.Thread(target=end, name="bgtask-end", daemon=True)
    thread.start()
    try:
        yield stop_in_time
    finally:
        left.set()
        waker.wake()
        thread.join()
        waker.close()


@contextlib.contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread may set handlers. --reload gives it to Django's reloader.
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
    """Raise CommandError if the database can't be used, and waiting would not help."""
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
            return  # The database can't be reached. The runner waits for it.
        if missing:
            raise CommandError("The tables of bgtask are missing: run `migrate` first.") from error
        if isinstance(error, ProgrammingError):  # No permission. Other errors may pass.
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
    return max(number, 0.01)  # Even with 0, leave the database to others for a moment.


def _count(text: str) -> int:
    """Return a number of threads or processes. This machine must be able to run them all."""
    return _whole(text, 10_000)


def _whole(text: str, most: int = 10**9) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {most}")
    return number
