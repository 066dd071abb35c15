"""Parse arguments that several commands have in common."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import CommandError, CommandParser

from bgtask.exceptions import InvalidOption
from bgtask.options import check_queue, check_queues


def queue_name(text: str) -> str | None:
    try:
        return check_queue(text)
    except InvalidOption as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def queue_names(values: Any) -> list[str] | None:
    """Return the names of queues that code or the command line gave, or raise CommandError."""
    try:
        return check_queues(values)
    except InvalidOption as error:
        raise CommandError(str(error)) from error


def without_usage(parser: CommandParser) -> CommandParser:
    """Make each error of the parser one line, without the usage. --help still shows the usage."""
    parser.print_usage = lambda file=None: None  # type: ignore[method-assign]
    return parser
