"""Toy functions for the tests."""

from __future__ import annotations

import time

from bgtask import GiveUp, Retry, background, current_task


@background
def add(a, b):
    return a + b


@background
def noop(number=0):
    return None


@background
def fail(message="no luck"):
    raise RuntimeError(message)


@background
def nap(seconds):
    time.sleep(seconds)
