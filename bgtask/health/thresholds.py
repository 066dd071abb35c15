"""Read the thresholds by which the queues are judged from the settings, queue by queue."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bgtask.conf import get_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one queue: pairs (warn, fail), or None if a figure is never judged."""

    oldest_ready: tuple[float, float] | None
    failure_ratio: tuple[float, float] | None
    failure_window: float
    failure_sample: int


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The value of ``BGTASK["THRESHOLDS"]``, or one of the same shape."""

    given: Mapping[str, Any]

    @classmethod
    def in_force(cls) -> Thresholds:
        return cls(get_settings().thresholds)

    def of(self, queue: str) -> Limits:
        limits = {**self.given, **self.given["queues"].get(queue, {})}
        limits.pop("queues")
        return Limits(**limits)

    @property
    def queues(self) -> set[str]:
        """Return the names of the queues with limits of their own."""
        return set(self.given["queues"])

    @property
    def window(self) -> float:
        return float(self.given["failure_window"])

    @property
    def windows(self) -> set[float]:
        """Return the different windows, in seconds, in which failures are counted."""
        return {self.window, *(self.of(queue).failure_window for queue in self.queues)}

    def with_oldest_ready(
        self, warn: float | None = None, fail: float | None = None, queues: Sequence[str] = ()
    ) -> Thresholds:
        """
        Return the same thresholds with these ages, in seconds, instead.

        A queue whose settings never judge its age is judged by them only if it is in ``queues``.
        """
        if warn is None and fail is None:
            return self
        of_queues = {name: dict(limits) for name, limits in self.given["queues"].items()}
        for name in queues:
            pair = self.of(name).oldest_ready or (0.0, math.inf)
            of_queues.setdefault(name, {})["oldest_ready"] = pair
        changed = {name: _aged(limits, warn, fail) for name, limits in of_queues.items()}
        return Thresholds({**_aged(self.given, warn, fail), "queues": changed})


def _aged(limits: Mapping[str, Any], warn: float | None, fail: float | None) -> dict[str, Any]:
    if limits.get("oldest_ready") is None:
        return dict(limits)
    earlier, later = limits["oldest_ready"]
    if warn is not None:
        earlier, later = warn, max(later, warn)
    if fail is not None:
        # A queue that was never judged by its age has no age to warn at.
        earlier, later = min(earlier or fail, fail), fail
    return {**limits, "oldest_ready": (earlier, later)}
