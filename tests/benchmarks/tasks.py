"""What the workers under test run: almost nothing, and each tells the witness."""

from __future__ import annotations

import time

from bgtask import background
from tests.benchmarks import witness


@background
def noop(number):
    witness.saw(number, time.monotonic())


@background
def nap(number, seconds):
    start = time.monotonic()
    time.sleep(seconds)
    witness.saw(number, start)
