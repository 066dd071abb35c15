"""Measure, as a process of its own, whether memory grows with the number of enqueued tasks."""

from __future__ import annotations

import resource
import sys

import django


def main() -> None:
    django.setup()
    from tests.benchmarks.tasks import noop

    number = int(sys.argv[1])
    noop.enqueue_many((n,) for n in range(number // 10))
    before = _peak()
    noop.enqueue_many((n,) for n in range(number))
    sys.stdout.write(f"{_peak() - before:.1f}\n")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
