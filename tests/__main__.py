"""
The whole suite, once on each database this machine can have.

    python -m tests                             whichever there are
    python -m tests --only sqlite -k claim      what is not ours is pytest's
    python -m tests --require sqlite,postgresql,mariadb --parallel
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
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Literal

from tests.databases import DATABASES, ServerMissing

ROOT = Path(__file__).parent.parent
ALWAYS = ("sqlite", "postgresql")  # They come with Python and from PyPI.


@dataclass(frozen=True)
class Result:
    database: str
    outcome: Literal["passed", "failed", "missing"]
    summary: str

    def __str__(self) -> str:
        return f"{self.database:<12}{self.outcome:<9}{self.summary}"


def main() -> int:
    options, pytest_args = _parse()
    suite = Suite(pytest_args, durable=options.durable, again=options.again)
    # Asked to end, this process first ends its servers; conftest.py says what pytest does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        results = list((suite.run_abreast if options.parallel else suite.run)(options.only))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT

    print("\nDatabases", *results, sep="\n  ", flush=True)
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

    def run(self, databases: Iterable[str]) -> Iterable[Result]:
        """One after the other, each telling as it goes."""
        for database in databases:
            yield self._run_on(database, sys.stdout.buffer)

    def run_abreast(self, databases: list[str]) -> Iterable[Result]:
        """All at once; what each had to tell comes at the end, one by one."""
        with contextlib.ExitStack() as stack:
            logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in databases]
            threads = stack.enter_context(ThreadPoolExecutor(len(databases)))
            stack.callback(self._terminate)  # Or leaving would wait for the last test.
            results = threads.map(self._run_on, databases, logs)
            for log, result in zip(logs, results, strict=True):
                log.seek(0)
                _copy(log, sys.stdout.buffer)
                yield result

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
        """A real process may be starved where three suites share two cores: ask it once more."""
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
            return Result(database, second.outcome, f"{first.summary}; again: {second.summary}")

    def _pytest(self, database: str, settings: str, output: IO[bytes], *more_args: str) -> Result:
        colour = ["--color=yes"] if sys.stdout.isatty() else []
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *colour, *self._pytest_args, *more_args],
            cwd=ROOT,
            env={**os.environ, "BGTASK_TEST_DATABASE": settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C comes here, and is passed on once.
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
        return Result(database, outcome, _summary(tail) or f"pytest returned {returncode}")


def _copy(source: IO[bytes], target: IO[bytes]) -> bytes:
    """Pass all on as it comes, and return the end of it."""
    tail = b""
    # Not by lines: pytest's dots should appear one by one.
    for chunk in iter(partial(os.read, source.fileno(), 65_536), b""):
        target.write(chunk)
        target.flush()
        tail = (tail + chunk)[-4_096:]
    return tail


def _summary(tail: bytes) -> str:
    """Pytest's own last words: "3 passed, 1 skipped in 0.12s"."""
    text = re.sub(r"\x1b\[[\d;]*m", "", tail.decode(errors="replace"))
    lines = re.findall(r"^.* in \d[\d.]*s\b.*$", text, re.MULTILINE)
    return lines[-1].strip("= ") if lines else ""


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m tests", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--only", type=_names, default=list(DATABASES), metavar="NAMES",
        help=f"of {','.join(DATABASES)}",
    )  # fmt: skip
    parser.add_argument(
        "--require", type=_names, metavar="NAMES",
        help=f"fail if one of these is missing; {','.join(ALWAYS)} unless told",
    )  # fmt: skip
    parser.add_argument("--parallel", action="store_true", help="all databases at once")
    parser.add_argument("--again", action="store_true", help="run what failed once more, alone")
    parser.add_argument("--durable", action="store_true", help="with fsync, as in production")
    options, pytest_args = parser.parse_known_args()
    if options.require is None:
        options.require = [name for name in ALWAYS if name in options.only]
    if strays := set(options.require) - set(options.only):
        parser.error(f"required, but not run: {', '.join(sorted(strays))}")
    return options, pytest_args


def _names(value: str) -> list[str]:
    names = value.split(",")
    if unknown := set(names) - set(DATABASES):
        raise argparse.ArgumentTypeError(f"no database is called {min(unknown)!r}")
    return names


if __name__ == "__main__":
    sys.exit(main())
