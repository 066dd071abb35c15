"""Functions for the workers under test. They do almost nothing, and tell the probe."""

from __future__ import annotations

import time

from bgtask import background
from tests.benchmarks import probe


@background
def noop(number):
    probe.saw(number, time.monotonic())


@background
def nap(number, seconds):
    start = time.monotonic()
    time.sleep(seconds)
    probe.saw(number, start)
