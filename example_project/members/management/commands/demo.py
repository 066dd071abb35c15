from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from typing import Any

from django.core.management import BaseCommand, CommandError

INTERRUPTED = 130  # The exit code in a shell of a command that Ctrl-C has ended.


class Command(BaseCommand):
    help = "Run hundreds of tasks on a site made for the purpose, then serve it."
    # System checks may read the database, which is about to be removed. The worker runs them.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--exit", action="store_true", help="end after the summary; status 0 if all is well"
        )
        parser.add_argument("--host", default="127.0.0.1", help="where to serve: %(default)s")
        parser.add_argument("--port", type=_port, default=8000, help="its port: %(default)s")

    def handle(self, *, exit: bool, host: str, port: int, **options: Any) -> None:
        if find_spec("PIL") is None:
            raise CommandError(
                "The demo draws membership cards with Pillow, which is not installed here: "
                "pip install -e '.[demo]'"
            )
        # Import here, because these modules need Pillow.
        from example_project.members.demo.processes import ignore_stop_signals, stop_as_by_ctrl_c
        from example_project.members.demo.story import Demo

        stop_as_by_ctrl_c()
        try:
            good = Demo(self.stdout, self.style, host=host, port=port).run(serve=not exit)
        except KeyboardInterrupt:
            ignore_stop_signals()
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            # The reader of the output has ended, as `| head` does. Redirect the output, because
            # Python would complain at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as error:
            raise CommandError(f"The demo cannot go on: {error}") from error
        if not good:
            raise CommandError("Not every task ended as it should: see above.")


def _port(value: str) -> int:
    if not value.isdecimal() or not 0 < int(value) < 65_536:
        raise argparse.ArgumentTypeError(f"{value!r} is not a port number")
    return int(value)
