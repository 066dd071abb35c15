"""Measure durations with a clock that no test can freeze.

freezegun replaces ``time.monotonic`` in every module while a test has frozen the time. A duration
between a replaced reading and a real one would be negative, and a wait on a frozen clock would
never end. So read the operating system's clock directly, here and in no other module.
"""

from __future__ import annotations

import time
from functools import partial

if hasattr(time, "clock_gettime"):
    monotonic = partial(time.clock_gettime, time.CLOCK_MONOTONIC)
else:  # Windows
    monotonic = partial(time.monotonic)
