"""Read the file of payments that the bank delivers.

It has semicolons between its fields, notes with line breaks, and refunds.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

from example_project.members.conf import settings

FIELDS = ["id", "date", "member", "method", "amount", "note"]


@dataclass(frozen=True)
class Sums:
    payments: int = 0
    refunds: int = 0
    total_cents: int = 0

    def plus(self, cents: int) -> Sums:
        return Sums(
            self.payments + (cents >= 0), self.refunds + (cents < 0), self.total_cents + cents
        )


def path(year: int) -> Path:
    return settings.SITE_DIR / f"payments-{year}.csv"


def add_up(year: int, month: int) -> Sums:
    """
    Return the sums of the payments in that month.

    Raise FileNotFoundError if the bank has not delivered the file of that year.
    """
    sums = Sums()
    for day, amount in _read(path(year)):
        if (day.year, day.month) == (year, month):
            sums = sums.plus(int(amount * 100))
    return sums


def _read(file: Path) -> Iterator[tuple[date, Decimal]]:
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter=";"):
            yield date.fromisoformat(row["date"]), Decimal(row["amount"])
