from __future__ import annotations

import re

import pytest

from example_project.members import payments
from example_project.members.demo import payments_file
from example_project.members.payments import Sums


def test_payment_file_is_large_and_irregular():
    payments_file.write(2025, ["M-0001", "M-0002"])

    text = payments.path(2025).read_text(encoding="utf-8")
    rows = re.findall(r"^\d+;", text, re.MULTILINE)
    assert len(rows) == 12_000
    assert '"Donation\nfor the new roof"' in text
    assert '"fee; second half"' in text
    assert '"called ""the lamp fund"" by the donor"' in text


def test_payment_file_is_the_same_each_time():
    payments_file.write(2025, ["M-0001"], rows=100)
    first = payments.path(2025).read_bytes()

    payments_file.write(2025, ["M-0001"], rows=100)

    assert payments.path(2025).read_bytes() == first


def test_sum_of_all_months_equals_the_written_payments():
    written = payments_file.write(2025, ["M-0001"], rows=3_000)

    read = {month: payments.add_up(2025, month) for month in range(1, 13)}

    assert read == written
    # And once more by a third way, which knows nothing of rows and their fields.
    text = payments.path(2025).read_text(encoding="utf-8")
    amounts = re.findall(r";(?:debit|transfer|cash);(-?)(\d+)\.(\d\d);", text)
    total = sum(int(sign + units + cents) for sign, units, cents in amounts)
    assert sum(sums.total_cents for sums in read.values()) == total


def test_a_month_without_payments_is_zero():
    payments_file.write(2025, ["M-0001"], rows=0)

    assert payments.add_up(2025, 1) == Sums(0, 0, 0)


def test_error_names_the_missing_file():
    with pytest.raises(FileNotFoundError, match=r"payments-1999\.csv"):
        payments.add_up(1999, 1)
