"""Cause faults, and test what docs/reliability.md promises for them."""
