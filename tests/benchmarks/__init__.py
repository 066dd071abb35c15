"""How fast it is, beside what the database itself can do: ``python -m tests.benchmarks``."""
