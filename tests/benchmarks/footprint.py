"""
Count the functions and files of bgtask that one task passes through.

    python -m tests.benchmarks.footprint          one line for each stage
    python -m tests.benchmarks.footprint --list   and the functions, by file

A reader who follows a task has to open these files. Compare the counts before and after a change
that adds a module. The stages run on SQLite: one enqueue, a worker that runs a task which fails
once and then succeeds, the page of that task, and the list of tasks.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django

from tests.processes import ROOT

PACKAGES = ("bgtask", "bgtask_admin")
Footprint = dict[str, set[str]]  # Names of functions, by file.


@contextmanager
def recorded() -> Iterator[Footprint]:
    """Record which functions of the packages all threads execute inside this context."""
    footprint: Footprint = defaultdict(set)
    folders = tuple(f"{ROOT / package}{os.sep}" for package in PACKAGES)

    def note(frame: Any, event: str, arg: Any) -> None:
        code = frame.f_code
        # Bodies of modules and classes are not optimized. They run when a module is imported.
        is_function = event == "call" and code.co_flags & inspect.CO_OPTIMIZED
        if is_function and code.co_filename.startswith(folders) and code.co_name[0] != "<":
            footprint[str(Path(code.co_filename).relative_to(ROOT))].add(code.co_qualname)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield footprint
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def stages() -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield each stage, with the function that runs it. Each needs the stages before it."""
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.test import Client

    # The command imports the worker. Without this import, what runs once at import would count.
    from bgtask.management.commands import process_tasks  # noqa: F401
    from tests.tasks import fail_once

    yield "enqueue", lambda: fail_once()
    yield "worker", lambda: call_command("process_tasks", "--drain", "--threads=1")

    client = Client()
    client.force_login(User.objects.create_superuser("operator"))
    for page in ("/admin/bgtask/task/1/change/", "/admin/bgtask/task/"):
        assert client.get(page).status_code == 200, page
    yield "page of the task", lambda: client.get("/admin/bgtask/task/1/change/")
    yield "list of tasks", lambda: client.get("/admin/bgtask/task/")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.footprint", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="print the functions as well")
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    from django.core.management import call_command
    from django.test.utils import override_settings

    call_command("migrate", verbosity=0)
    with override_settings(LOGGING_CONFIG=None):
        for name, run in stages():
            with recorded() as footprint:
                run()
            functions = sum(map(len, footprint.values()))
            sys.stdout.write(f"{name}: {functions} functions in {len(footprint)} files\n")
            for file, names in sorted(footprint.items() if options.list else ()):
                sys.stdout.write(f"    {file}: {', '.join(sorted(names))}\n")


if __name__ == "__main__":
    main()
