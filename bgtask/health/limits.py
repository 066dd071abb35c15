"""From when on something is not well: the thresholds of the settings, queue by queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bgtask.conf import get_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one queue is judged by: pairs of (warn, fail), or None where it never is."""

    oldest_ready: tuple[float, float] | None
    failure_ratio: tuple[float, float] | None
    failure_window: float
    failure_sample: int


@dataclass(frozen=True, slots=True)
class Thresholds:
    """``BGTASK["THRESHOLDS"]``, or others of the same shape."""

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
        """Those with limits of their own."""
        return set(self.given["queues"])

    @property
    def window(self) -> float:
        return float(self.given["failure_window"])

    @property
    def windows(self) -> set[float]:
        """The different windows in which failures are counted."""
        return {self.window, *(self.of(queue).failure_window for queue in self.queues)}

    def with_oldest_ready(self, warn: float | None = None, fail: float | None = None) -> Thresholds:
        """The same, with these ages for every queue that is judged by its age."""

        def changed(limits: Mapping[str, Any]) -> dict[str, Any]:
            pair = limits.get("oldest_ready")
            if pair is None:
                return dict(limits)
            earlier, later = (
                pair[0] if warn is None else warn,
                pair[1] if fail is None else fail,
            )
            if fail is None:
                later = max(earlier, later)
            return {**limits, "oldest_ready": (min(earlier, later), later)}

        of_queues = {name: changed(limits) for name, limits in self.given["queues"].items()}
        return Thresholds({**changed(self.given), "queues": of_queues})
