"""Run ``bgtask_prune`` by its other name."""

from bgtask.management.commands.bgtask_prune import Command

__all__ = ["Command"]
