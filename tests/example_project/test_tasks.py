from __future__ import annotations

from datetime import date, timedelta

import pytest
from django.core import mail
from PIL import Image

from example_project.members import cards, payments, tasks
from example_project.members.demo import payments_file
from example_project.members.models import Debit, PaymentReport, Plan, Registration


def test_greets_a_new_member(member):
    address = tasks.notify_user.now(member.user_id)

    (message,) = mail.outbox
    assert message.to == [address] == ["member1@example.org"]
    assert "Dear Chloé Dvořák" in message.body


def test_mails_the_fee_that_is_due(member):
    assert tasks.send_invoice.now(member.pk) == 9_000

    (message,) = mail.outbox
    assert "90.00" in message.body


def test_honorary_member_has_no_fee(make_member):
    member = make_member(plan=Plan.HONORARY)

    with pytest.raises(KeyError, match="honorary"):
        tasks.send_invoice.now(member.pk)

    assert not mail.outbox


@pytest.mark.django_db
def test_error_of_the_bank_is_reported():
    expected = payments_file.write(2025, ["M-0001"], rows=500)

    reported = tasks.report_payments.now(2025, 3)
    tasks.report_payments.now(2025, 3)

    report = PaymentReport.objects.get()
    assert (report.year, report.month) == (2025, 3)
    assert payments.Sums(report.payments, report.refunds, report.total_cents) == expected[3]
    assert payments.Sums(**reported) == expected[3]


def test_makes_a_card_and_replaces_it(member, site):
    name = tasks.make_card.now(member.pk)
    tasks.make_card.now(member.pk)

    member.refresh_from_db()
    assert member.card.name == name == "cards/M-0001.png"
    assert [file.name for file in (site / "media/cards").iterdir()] == ["M-0001.png"]
    with Image.open(member.card.path) as card:
        assert (card.format, card.size) == ("PNG", cards.SIZE)


def test_debits_the_fee_once_a_year(member):
    tasks.debit_fee.now(member.pk)
    tasks.debit_fee.now(member.pk)

    debit = Debit.objects.get()
    assert (debit.member, debit.year, debit.cents) == (member, date.today().year, 9_000)


def test_debits_nothing_without_a_mandate(make_member):
    member = make_member(mandate_until=date.today() - timedelta(days=1))

    with pytest.raises(tasks.MandateExpired, match="M-0001"):
        tasks.debit_fee.now(member.pk)

    assert not Debit.objects.exists()


def test_prints_a_letter_line_by_line(member, site, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("example_project.members.tasks.time.sleep", waits.append)

    name = tasks.print_letter.now(member.pk)

    lines = (site / "letters" / name).read_text(encoding="utf-8").splitlines()
    assert lines[2] == "Dear Chloé Dvořák,"
    assert waits == [0.1] * len(lines)


def test_cannot_reach_a_directory_that_is_down(member):
    with pytest.raises(ConnectionRefusedError):
        tasks.tell_directory.now(member.pk)


def test_registers_at_the_third_call(member):
    for _ in range(2):
        with pytest.raises(tasks.FederationBusy):
            tasks.register_with_federation.now(member.pk)

    assert tasks.register_with_federation.now(member.pk) == 3
    assert Registration.objects.get(member=member).confirmed_at is not None
