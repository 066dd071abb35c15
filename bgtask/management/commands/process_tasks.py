"""Run ``bgtask_worker`` by the name that Django Background Tasks gave it."""

from bgtask.management.commands.bgtask_worker import Command

__all__ = ["Command"]
