"""
Charts as SVG, made here: no script, no styles in attributes, and words for who cannot see them.

Only shapes are drawn, in a box that is stretched to any width; what is to be read stands beside
it as text. Colours come from classes, so that they follow the admin's theme.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import escape, format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _

WIDTH, HEIGHT = 600, 120


@dataclass(frozen=True)
class Band:
    """One colour of the bars: its class, its name, and how much at each point."""

    css: str
    label: str
    values: Sequence[float | None]

    @property
    def total(self) -> float:
        return sum(value or 0 for value in self.values)


@dataclass(frozen=True)
class Chart:
    title: str
    summary: str  # What it shows, in a sentence.
    bands: Sequence[Band]
    times: Sequence[datetime]
    unit: Callable[[float], str] = lambda value: f"{value:,.0f}"

    @property
    def highest(self) -> float:
        columns = zip(*(band.values for band in self.bands), strict=True)
        return max((sum(value or 0 for value in column) for column in columns), default=0) or 0

    @property
    def top(self) -> float:
        return nice(self.highest)

    @property
    def top_label(self) -> str:
        return self.unit(self.top)

    @property
    def labels(self) -> list[str]:
        """Of the time: beginning, middle and end."""
        if not self.times:
            return []
        span = self.times[-1] - self.times[0]
        form = "H:i" if span.total_seconds() < 100_000 else "D j H:i"
        picked = (self.times[0], self.times[len(self.times) // 2], self.times[-1])
        return [date_format(_local(when), form) for when in picked]

    @property
    def is_empty(self) -> bool:
        return all(value is None for band in self.bands for value in band.values)

    def svg(self) -> SafeString:
        return format_html(
            '<svg class="bg-chart" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" '
            'aria-label="{}">{}{}</svg>',
            WIDTH,
            HEIGHT,
            _("%(title)s: %(summary)s") % {"title": self.title, "summary": self.summary},
            format_html_join(
                "",
                '<line class="bg-grid" x1="0" x2="{}" y1="{}" y2="{}"/>',
                ((WIDTH, y, y) for y in (0.5, HEIGHT / 2, HEIGHT - 0.5)),
            ),
            _bars(self.bands, len(self.times), self.top, WIDTH, HEIGHT),
        )


def sparkline(values: Sequence[float | None], label: str, css: str = "bg-done") -> SafeString:
    """Small bars in the line of a table."""
    top = max((value or 0 for value in values), default=0) or 1
    return format_html(
        '<svg class="bg-spark" viewBox="0 0 120 24" preserveAspectRatio="none" role="img" '
        'aria-label="{}">{}</svg>',
        label,
        _bars([Band(css, "", values)], len(values), top, 120, 24),
    )


def _bars(
    bands: Sequence[Band], columns: int, top: float, width: float, height: float
) -> SafeString:
    step = width / max(columns, 1)
    gap = min(step * 0.2, 2)
    floors = [0.0] * columns
    shapes = []
    for band in bands:
        css = escape(band.css)
        for index, value in enumerate(band.values):
            if not value:
                continue
            tall = max(value / (top or 1) * height, 1.0)  # What is there can be seen.
            floors[index] += tall
            # By hand, for a page has thousands of them; all but the class are numbers.
            shapes.append(
                f'<rect class="{css}" x="{index * step + gap / 2:.1f}" '
                f'y="{max(height - floors[index], 0):.1f}" '
                f'width="{step - gap:.1f}" height="{tall:.1f}"/>'
            )
    return mark_safe("".join(shapes))  # noqa: S308


def nice(value: float) -> float:
    """The next round number above: 1, 2, 5, 10, 20, 50 …"""
    if value <= 1:
        return 1
    power = 1.0
    while True:
        for factor in (1, 2, 5):
            if power * factor >= value:
                return power * factor
        power *= 10


def _local(when: datetime) -> datetime:
    return timezone.localtime(when) if timezone.is_aware(when) else when
