"""Figures and thresholds → what is wrong, how bad it is, and since when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bgtask.health.figures import Health, measure


def take(
    queues: Sequence[str] | None = None, thresholds: Mapping[str, Any] | None = None
) -> Health:
    """
    The state of these queues, or of all, judged by these thresholds or by those of the settings.

    Five queries, none of which reads finished tasks.
    """
    return judge(measure(queues), thresholds)


def judge(health: Health, thresholds: Mapping[str, Any] | None = None) -> Health:
    """The same figures with status, reasons and sentence."""
    raise NotImplementedError
