"""Measure the queue against what the database itself can do: ``python -m tests.benchmarks``."""
