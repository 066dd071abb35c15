"""Make a year of payments, as a bank would deliver it. The same seed gives the same year."""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from datetime import date, timedelta

from example_project.members import payments
from example_project.members.payments import Sums

ROWS = 12_000
METHODS = ["debit"] * 6 + ["transfer"] * 3 + ["cash"]
NOTES = [
    "",
    "",
    "fee",
    "fee; second half",
    'called "the lamp fund" by the donor',
    "Donation\nfor the new roof",
    "für die Jugend, Łódź",
]


def write(year: int, members: list[str], *, rows: int = ROWS, seed: int = 2) -> dict[int, Sums]:
    """
    Write the file and return the sums of each month.

    The sums are counted in whole cents while the rows are made. They are independent of the code
    that reads the file later.
    """
    dice = random.Random(seed)  # noqa: S311  # Amounts in a file for show.
    sums: dict[int, Sums] = defaultdict(Sums)
    with payments.path(year).open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, delimiter=";")
        writer.writerow(payments.FIELDS)
        for number in range(1, rows + 1):
            day = date(year, 1, 1) + timedelta(days=dice.randrange(365))
            cents = _cents(dice)
            amount = f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02}"
            member, method, note = dice.choice(members), dice.choice(METHODS), dice.choice(NOTES)
            writer.writerow([number, day, member, method, amount, note])
            sums[day.month] = sums[day.month].plus(cents)
    return dict(sums)


def _cents(dice: random.Random) -> int:
    if dice.random() < 0.03:
        return -dice.randrange(500, 9_000)  # A refund.
    return dice.choice([2_500, 6_000, 9_000, dice.randrange(100, 50_000)])
