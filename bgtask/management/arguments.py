"""Parse arguments that several commands have in common."""

from __future__ import annotations

import argparse

from bgtask.exceptions import InvalidOption
from bgtask.options import check_queue


def queue_name(text: str) -> str | None:
    try:
        return check_queue(text)
    except InvalidOption as error:
        raise argparse.ArgumentTypeError(str(error)) from None
