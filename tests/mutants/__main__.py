"""Run the mutants. See ``tests.mutants``."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import tests.mutants
from tests.databases import DATABASES, ServerMissing, Settings
from tests.mutants.catalogue import EQUIVALENT, MUTANTS
from tests.mutants.mutant import ROOT, Mutant, PatchDoesNotApply

TIME_LIMIT_SECONDS = 180
PYTEST_OPTIONS = ("-x", "-q", "-p", "no:cacheprovider")
# What pytest's exit status says of a mutant. With any other status, no test has judged it.
RESULTS = {0: "SURVIVED", 1: "killed"}


class Tree:
    """A copy of this work tree, in which the tests run. The work tree itself is never patched."""

    def __init__(self, path: Path) -> None:
        self.path = path
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, path / name)
        self._writes = 0

    def run(
        self,
        tests: Iterable[str],
        database: Settings,
        *,
        limit: float | None = None,
        output: int | None = subprocess.DEVNULL,
    ) -> int | None:
        """Return pytest's exit status, or None if the tests took longer than ``limit`` seconds."""
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *PYTEST_OPTIONS, *tests],
            cwd=self.path,
            env={
                **os.environ,
                "BGTASK_TEST_DATABASE": json.dumps(database),
                "PYTHONPATH": str(self.path),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:  # End the processes that the tests have started, too.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def judge(self, mutant: Mutant, database: Settings) -> str:
        path = self.path / mutant.file
        original = path.read_text()
        try:
            self._write(path, mutant.patched(original))
        except PatchDoesNotApply:
            return "patch does not apply"
        try:
            status = self.run(mutant.tests.split(), database, limit=TIME_LIMIT_SECONDS)
        finally:
            self._write(path, original)
        return "timed out" if status is None else RESULTS.get(status, f"no test ran ({status})")

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)
        # Python compiles a module again only if its size or its time, in seconds, has changed.
        self._writes += 1
        os.utime(path, (self._writes * 10, self._writes * 10))


def main() -> int:
    options = _parse()
    # On SIGTERM, leave the ``with`` blocks, which stop the servers and delete the copy.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chosen = [
        mutant
        for mutant in MUTANTS
        if (not options.only or mutant.name in options.only)
        and (not options.database or mutant.database == options.database)
    ]
    results: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bgtask-mutants-") as directory:
        tree = Tree(Path(directory))
        for database in dict.fromkeys(mutant.database for mutant in chosen):
            mutants = [mutant for mutant in chosen if mutant.database == database]
            try:
                with DATABASES[database](durable=False) as settings:
                    results += _judge_all(tree, mutants, settings)
            except ServerMissing as error:
                print(f"{database}: {error}")
                results["not run"] += len(mutants)
    for equivalent in () if options.only else EQUIVALENT:
        print(f"{'equivalent':<33}{equivalent.name}: {equivalent.why}")
    words = ", ".join(f"{number} {result}" for result, number in results.most_common())
    print(f"\n{words or 'no mutant chosen'} in {time.monotonic() - began:.0f} s")
    return 0 if results.keys() <= {"killed"} else 1


def _judge_all(tree: Tree, mutants: Sequence[Mutant], database: Settings) -> Counter[str]:
    # A test that fails without the patch would prove nothing.
    tests = {test for mutant in mutants for test in mutant.tests.split()}
    if tree.run(sorted(tests), database, output=None) != 0:
        print("The named tests fail without any patch.")
        return Counter({"not run": len(mutants)})
    results: Counter[str] = Counter()
    for mutant in mutants:
        began = time.monotonic()
        result = tree.judge(mutant, database)
        results[result] += 1
        seconds = time.monotonic() - began
        print(f"{result:<21}{seconds:5.1f} s  {mutant.database:<11}{mutant.name}", flush=True)
    return results


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description=tests.mutants.__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    names = sorted(mutant.name for mutant in MUTANTS)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help="these mutants")
    parser.add_argument("--database", choices=sorted(DATABASES), help="the mutants of a database")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
