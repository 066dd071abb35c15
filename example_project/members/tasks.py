"""Define the work that the site does in the background. Each function is one kind of task.

A task may run a second time, if its worker died before it could record the outcome. So each
function has the same result whether it runs once or twice. A card is replaced, and a debit is
taken once a year.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from datetime import date, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.core.mail import send_mail
from django.db.models import F
from django.utils import timezone

from bgtask import background
from example_project.members import payments
from example_project.members.conf import settings
from example_project.members.models import Debit, Member, PaymentReport, Plan, Registration

# Honorary members came later. Their fee is missing here, so their invoices fail.
FEES: dict[str, int] = {Plan.REGULAR: 6_000, Plan.FAMILY: 9_000, Plan.YOUTH: 2_500}


class MandateExpired(Exception):
    """The bank would refuse the debit."""


class FederationBusy(Exception):
    """The federation asks to be called again."""


@background(queue="mail")
def notify_user(user_id: int) -> str:
    """Greet a new member by mail; return the address."""
    user = get_user_model().objects.get(pk=user_id)
    user.email_user(
        "Welcome to the club",
        f"Dear {user.get_full_name()},\n\nyour membership has begun. We look forward to you.\n",
    )
    return user.email


@background(queue="mail", max_attempts=3, backoff=1)
def send_invoice(member_id: int) -> int:
    """Mail the fee that is due; return the cents."""
    member = Member.objects.select_related("user").get(pk=member_id)
    cents = FEES[member.plan]
    send_mail(
        f"Invoice {date.today():%Y}-{member.number}",
        f"Your fee for the coming year: {cents / 100:.2f}. We take it from your account.\n",
        None,
        [member.user.email],
    )
    return cents


@background(queue="reports", priority=10)
def report_payments(year: int, month: int) -> dict[str, Any]:
    """Add up a month of the bank's file; store and return the sums."""
    sums = asdict(payments.add_up(year, month))
    PaymentReport.objects.update_or_create(year=year, month=month, defaults=sums)
    return sums


@background(queue="cards")
def make_card(member_id: int) -> str:
    """Draw the membership card as a PNG; return its name below MEDIA_ROOT."""
    # Import here, so that the site runs without Pillow as long as nobody asks for a card.
    from example_project.members import cards

    member = Member.objects.select_related("user").get(pk=member_id)
    card = cards.draw(
        Path(member.photo.path),
        name=member.user.get_full_name(),
        number=member.number,
        plan=member.get_plan_display(),
        valid_until=member.renews_on,
    )
    name = f"cards/{member.number}.png"
    file = settings.MEDIA_ROOT / name
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{os.getpid()}-{member_id}")
    card.save(unfinished, "PNG")
    unfinished.replace(file)  # In one step, so that nobody is served half a picture.
    Member.objects.filter(pk=member_id).update(card=name)
    return name


@background(max_attempts=1)
def debit_fee(member_id: int) -> int:
    """
    Take the fee from the member's account, once a year; return the cents.

    There is only one attempt. If the bank refuses, somebody should look before it is asked again.
    """
    member = Member.objects.get(pk=member_id)
    today = date.today()
    if member.mandate_until < today:
        raise MandateExpired(f"The mandate of {member.number} ended on {member.mandate_until}.")
    debit, _ = Debit.objects.get_or_create(
        member=member, year=today.year, defaults={"cents": FEES[member.plan]}
    )
    return debit.cents


@background(queue="letters", max_run_time=60)
def print_letter(member_id: int) -> str:
    """Write a letter at the speed of its printer, ten lines a second; return the file's name."""
    member = Member.objects.select_related("user").get(pk=member_id)
    file = settings.SITE_DIR / "letters" / f"{member.number}.txt"
    file.parent.mkdir(exist_ok=True)
    with file.open("w", encoding="utf-8") as printer:
        for line in _letter(member):
            printer.write(f"{line}\n")
            time.sleep(0.1)
    return file.name


def _letter(member: Member) -> list[str]:
    greeting = ["The Club", "", f"Dear {member.user.get_full_name()},", ""]
    text = "you are invited to our general meeting, which decides on the following:"
    return [*greeting, text, *(f"  {number}. item" for number in range(1, 9)), "", "The board"]


@background(queue="sync")
def tell_directory(member_id: int) -> int:
    """
    Announce the member to the federation's directory; return the status of its answer.

    If no server answers, the task is tried again 6, 21, 86 … seconds later, by the usual back-off.
    """
    member = Member.objects.select_related("user").get(pk=member_id)
    connection = HTTPConnection(settings.DIRECTORY, timeout=10)
    try:
        body = json.dumps({"number": member.number, "name": member.user.get_full_name()})
        connection.request("PUT", f"/members/{member.number}", body)
        status = connection.getresponse().status
    finally:
        connection.close()
    if status >= 400:
        raise RuntimeError(f"The directory answered {status}.")
    return status


def soon(attempts: int) -> timedelta:
    """Return a wait that is half a second longer after each attempt."""
    return timedelta(seconds=0.5 * attempts)


@background(queue="sync", max_attempts=5, backoff=soon)
def register_with_federation(member_id: int) -> int:
    """
    Register the member; return the number of calls.

    The federation accepts a member at the third call.
    """
    registration, _ = Registration.objects.get_or_create(member_id=member_id)
    Registration.objects.filter(pk=registration.pk).update(calls=F("calls") + 1)
    registration.refresh_from_db()
    if registration.calls < 3:
        raise FederationBusy("The federation is busy. Please call again.")
    registration.confirmed_at = timezone.now()
    registration.save(update_fields=["confirmed_at"])
    return registration.calls
