"""The measured figures, and their formatting."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Figure:
    """A line of the table: the values of repeated measurements of the same thing."""

    row: str
    what: str
    unit: str
    goal: str = ""
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.values), max(self.values)

    def as_data(self) -> dict[str, Any]:
        return {
            "row": self.row,
            "what": self.what,
            "unit": self.unit,
            "goal": self.goal,
            "median": self.median,
            "spread": self.spread,
            "values": self.values,
        }


class Figures:
    """The figures of one row. A figure is created when its first value is noted."""

    def __init__(self, row: str) -> None:
        self._row = row
        self._figures: dict[str, Figure] = {}

    def note(self, what: str, value: float, unit: str = "", goal: str = "") -> None:
        figure = self._figures.setdefault(what, Figure(self._row, what, unit, goal))
        figure.values.append(value)

    def __iter__(self):
        return iter(self._figures.values())


def percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def as_markdown(figures: Sequence[Figure]) -> str:
    lines = ["| row | what | median | least … most | goal |", "|---|---|--:|--:|---|"]
    for figure in figures:
        least, most = (shown(value) for value in figure.spread)
        value = f"{shown(figure.median)} {figure.unit}".strip()
        lines.append(
            f"| {figure.row} | {figure.what} | {value} | {least} … {most} | {figure.goal} |"
        )
    return "\n".join(lines)


def shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
