"""
Run the tests on several databases, side by side.

    python -m tests                             SQLite and PostgreSQL; a sample of the slow tests
    python -m tests --all                       every test, on MariaDB too if it is installed
    python -m tests --only sqlite -k claim      other options are passed on to pytest
    python -m tests --require mariadb           MariaDB too; fail if it is missing
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Literal

from tests import sampling
from tests.databases import DATABASES, ServerMissing

ROOT = Path(__file__).parent.parent
ALWAYS = ("sqlite", "postgresql")  # Python and PyPI provide these two.


@dataclass(frozen=True)
class Result:
    database: str
    outcome: Literal["passed", "failed", "missing"]
    summary: str
    failures: tuple[str, ...] = ()
    left_out: str = ""

    def __str__(self) -> str:
        return f"{self.database:<12}{self.outcome:<9}{self.summary}"


def main() -> int:
    options, pytest_args = _parse()
    suite = Suite(pytest_args, durable=options.durable, again=options.again)
    # On SIGTERM, leave the ``with`` blocks, which stop the servers. conftest.py does it for pytest.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        results = suite.run(options.only)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT

    _report(results)
    wanting = [
        result
        for result in results
        if result.outcome == "failed"
        or (result.outcome == "missing" and result.database in options.require)
    ]
    return 1 if wanting else 0


class Suite:
    def __init__(self, pytest_args: list[str], *, durable: bool, again: bool) -> None:
        self._pytest_args = pytest_args
        self._durable = durable
        self._again = again
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(self, databases: list[str]) -> list[Result]:
        if len(databases) == 1:
            return [self._run_on(databases[0], sys.stdout.buffer)]
        return self._run_side_by_side(databases)

    def _run_side_by_side(self, databases: list[str]) -> list[Result]:
        """Return the results. Print each output when its run ends, and progress until then."""
        names = ", ".join(databases)
        print(f"Running on {names}. The output of each follows when it is done.", flush=True)
        results: dict[str, Result] = {}
        with contextlib.ExitStack() as stack:
            logs = {name: stack.enter_context(tempfile.TemporaryFile()) for name in databases}
            threads = stack.enter_context(ThreadPoolExecutor(len(databases)))
            stack.callback(self._terminate)  # Without this, leaving would wait for the last test.
            progress = Progress(logs)
            running = {threads.submit(self._run_on, name, logs[name]): name for name in databases}
            while running:
                done, _ = wait(running, progress.interval, FIRST_COMPLETED)
                progress.show(running.values())
                for future in done:
                    name = running.pop(future)
                    results[name] = future.result()
                    progress.clear()
                    logs[name].seek(0)
                    _copy(logs[name], sys.stdout.buffer)
        return [results[name] for name in databases]

    def _terminate(self) -> None:
        for process in list(self._running):
            process.terminate()

    def _run_on(self, database: str, output: IO[bytes]) -> Result:
        output.write(f"\n=== {database}\n".encode())
        output.flush()
        try:
            with DATABASES[database](durable=self._durable) as settings:
                return self._once_or_twice(database, json.dumps(settings), output)
        except ServerMissing as error:
            return Result(database, "missing", str(error))
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            return Result(database, "failed", f"The server did not start: {error}")

    def _once_or_twice(self, database: str, settings: str, output: IO[bytes]) -> Result:
        """Run pytest, and failed tests once more if told to: three suites may share two cores."""
        if not self._again:
            return self._pytest(database, settings, output)
        with tempfile.TemporaryDirectory() as cache:
            memory = ["-o", f"cache_dir={cache}"]
            first = self._pytest(database, settings, output, *memory)
            if first.outcome == "passed":
                return first
            output.write(f"\n=== {database}: what failed, again\n".encode())
            failed_only = ["--last-failed", "--last-failed-no-failures=none"]
            second = self._pytest(database, settings, output, *memory, *failed_only)
            summary = f"{first.summary}; again: {second.summary}"
            return replace(second, summary=summary, left_out=first.left_out)

    def _pytest(self, database: str, settings: str, output: IO[bytes], *more_args: str) -> Result:
        colour = ["--color=yes"] if sys.stdout.isatty() else []
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *colour, *self._pytest_args, *more_args],
            cwd=ROOT,
            env={**os.environ, "BGTASK_TEST_DATABASE": settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Only this process gets Ctrl-C. It ends pytest.
        )
        self._running.add(process)
        assert process.stdout is not None
        try:
            tail = _copy(process.stdout, output)
        except BaseException:
            process.terminate()
            raise
        finally:
            returncode = process.wait()
            self._running.discard(process)
        outcome: Literal["passed", "failed"] = "passed" if returncode == 0 else "failed"
        said = re.sub(r"\x1b\[[\d;]*m", "", tail.decode(errors="replace"))
        return Result(
            database,
            outcome,
            summary=_summary(said) or f"pytest returned {returncode}",
            failures=tuple(re.findall(r"^(?:FAILED|ERROR) .+$", said, re.MULTILINE)),
            left_out="".join(re.findall(rf"^\d+ {sampling.LEFT_OUT}", said, re.MULTILINE)[-1:]),
        )


class Progress:
    """
    A line that shows how far pytest is on each database.

    The line is rewritten every second on a terminal, and printed every 15 seconds elsewhere.
    """

    def __init__(self, logs: Mapping[str, IO[bytes]]) -> None:
        self._logs = logs
        self._last = dict.fromkeys(logs, "starting")
        self._on_terminal = sys.stdout.isatty()
        self._started = time.monotonic()
        self.interval = 1 if self._on_terminal else 15

    def show(self, databases: Iterable[str]) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        parts = ", ".join(f"{name} {self._progress(name)}" for name in databases)
        line = f"{minutes} min {seconds:02} s: {parts}"
        print(f"\r{line}\x1b[K" if self._on_terminal else line, end="", flush=True)
        if not self._on_terminal:
            print(flush=True)

    def clear(self) -> None:
        """Go to the beginning of an empty line."""
        if self._on_terminal:
            print("\r\x1b[K", end="", flush=True)

    def _progress(self, database: str) -> str:
        """Return the last percentage that pytest has written, or else the previous one."""
        log = self._logs[database].fileno()
        size = os.fstat(log).st_size
        tail = os.pread(log, 4_096, max(size - 4_096, 0))  # Keeps the writer's position.
        if found := re.findall(rb"\[ *(\d+)%\]", tail):
            self._last[database] = f"{int(found[-1])} %"
        return self._last[database]


def _report(results: list[Result]) -> None:
    if len(results) > 1:  # A single pytest has printed its failures already.
        for result in results:
            if result.failures:
                print(f"\nFailed on {result.database}", *result.failures, sep="\n  ")
    print("\nDatabases", *results, sep="\n  ")
    for left_out in dict.fromkeys(result.left_out for result in results if result.left_out):
        print(f"\n{left_out}")
    sys.stdout.flush()


def _copy(source: IO[bytes], target: IO[bytes]) -> bytes:
    """Copy all bytes as soon as they arrive, and return the last 64 KiB."""
    tail = b""
    # Don't read by lines: pytest's dots should appear one by one.
    for chunk in iter(partial(os.read, source.fileno(), 65_536), b""):
        target.write(chunk)
        target.flush()
        tail = (tail + chunk)[-65_536:]
    return tail


def _summary(said: str) -> str:
    """Return the last line of pytest's output, such as "3 passed, 1 skipped in 0.12s"."""
    lines = re.findall(r"^.* in \d[\d.]*s\b.*$", said, re.MULTILINE)
    return lines[-1].strip("= ") if lines else ""


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m tests", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--only", type=_names, metavar="NAMES",
        help=f"of {','.join(DATABASES)}; {','.join(ALWAYS)} by default",
    )  # fmt: skip
    parser.add_argument(
        "--require", type=_names, metavar="NAMES",
        help=f"fail if one of these is missing; {','.join(ALWAYS)} by default",
    )  # fmt: skip
    parser.add_argument(
        "--all", action="store_true", help="every test but the thorough ones, on every database"
    )
    parser.add_argument("--again", action="store_true", help="run what failed once more, alone")
    parser.add_argument("--durable", action="store_true", help="with fsync, as in production")
    options, pytest_args = parser.parse_known_args()
    if options.only is None:
        default = DATABASES if options.all else ALWAYS
        options.only = list(dict.fromkeys([*default, *(options.require or [])]))
    if options.require is None:
        options.require = [name for name in ALWAYS if name in options.only]
    if strays := set(options.require) - set(options.only):
        parser.error(f"required, but not run: {', '.join(sorted(strays))}")
    if not options.all:
        pytest_args = ["-p", sampling.__name__, *pytest_args]
    return options, pytest_args


def _names(value: str) -> list[str]:
    names = value.split(",")
    if unknown := set(names) - set(DATABASES):
        raise argparse.ArgumentTypeError(f"no database is called {min(unknown)!r}")
    return names


if __name__ == "__main__":
    sys.exit(main())
