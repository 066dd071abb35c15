"""Define the members, what is enqueued for them, and how each task should end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import User
from django.utils.crypto import get_random_string

from bgtask import BackgroundFunction
from bgtask.status import Status
from example_project.members import tasks
from example_project.members.conf import settings
from example_project.members.demo import portraits
from example_project.members.models import Member, Plan

MEMBERS = 60
ADMIN = "admin"
FIRST = [
    *["Ada", "Bo", "Chloé", "Dmitri", "Emeka", "Fatima"],
    *["Grace", "Håkon", "Inês", "Jürgen", "Kofi", "Lucía"],
]
LAST = ["Adeyemi", "Bernard", "Çelik", "Dvořák", "Eriksson"]


@dataclass(frozen=True)
class Expectation:
    """The state that a task should have once all work of today is done."""

    status: Status = Status.SUCCESSFUL
    attempts: int = 1
    error: str = ""
    at_least: bool = False  # It may have been tried more often by now.

    def is_met_by(self, status: str, attempts: int, error_class: str) -> bool:
        enough = attempts >= self.attempts if self.at_least else attempts == self.attempts
        error = error_class.rpartition(".")[2]
        return status == self.status and enough and error == self.error


SUCCESS = Expectation()
WAITING = Expectation(Status.SCHEDULED, attempts=0)
REFUSED = Expectation(Status.SCHEDULED, error="ConnectionRefusedError", at_least=True)


@dataclass(frozen=True)
class Batch:
    """Tasks that should end in the same way, and share a verbose name."""

    verbose_name: str
    count: int
    expected: Expectation = SUCCESS


def make_admin() -> str:
    """Create the operator's account; return its password, which is different each time."""
    password = get_random_string(12)
    get_user_model().objects.create_superuser(ADMIN, "admin@example.org", password)
    return password


def make_members(today: date) -> list[Member]:
    """
    Create the members, each with a portrait.

    Some are honorary members. Some have a mandate that has ended.
    """
    users = User.objects.bulk_create(_user(number) for number in range(1, MEMBERS + 1))
    return Member.objects.bulk_create(
        _member(number, user, today) for number, user in enumerate(users, start=1)
    )


def _user(number: int) -> User:
    first, last = FIRST[number % len(FIRST)], LAST[number % len(LAST)]
    return User(
        username=f"member{number:02}",
        first_name=first,
        last_name=last,
        email=f"member{number:02}@example.org",
        password=make_password(None),  # They never log in, and hashing a password takes time.
    )


def _member(number: int, user: User, today: date) -> Member:
    photo = f"photos/M-{number:04}.jpg"
    file = settings.MEDIA_ROOT / photo
    file.parent.mkdir(parents=True, exist_ok=True)
    portraits.take(file, seed=number)
    return Member(
        user=user,
        number=f"M-{number:04}",
        plan=Plan.HONORARY if number % 10 == 0 else list(Plan)[number % 3],
        joined=today,
        renews_on=today + timedelta(days=300 + number),
        mandate_until=today + timedelta(days=-3 if number % 7 == 0 else 400),
        photo=photo,
    )


def enqueue(members: Sequence[Member], year: int) -> list[Batch]:
    """Enqueue the day's work and return it."""
    today = date.today()
    honorary = [member for member in members if member.plan == Plan.HONORARY]
    paying = [member for member in members if member.plan != Plan.HONORARY]
    expired = [member for member in paying if member.mandate_until < today]
    debited = [member for member in paying if member.mandate_until >= today][:24]
    months = [(year, month) for month in range(1, 13)]

    no_fee = Expectation(Status.FAILED, attempts=3, error="KeyError")
    no_mandate = Expectation(Status.FAILED, error="MandateExpired")
    third_call = Expectation(attempts=3)
    return [
        _batch("invitation", tasks.print_letter, _each(members[:8])),
        _batch("payments of a month", tasks.report_payments, months),
        _welcome(members),
        _batch("membership card", tasks.make_card, _each(members)),
        _batch("invoice", tasks.send_invoice, _each(paying)),
        _batch("invoice to an honorary member", tasks.send_invoice, _each(honorary), no_fee),
        _batch("debit", tasks.debit_fee, _each(debited)),
        _batch("debit without a mandate", tasks.debit_fee, _each(expired), no_mandate),
        _batch("registration", tasks.register_with_federation, _each(members[:10]), third_call),
        _batch("entry in the directory", tasks.tell_directory, _each(members[:12]), REFUSED),
        _next_invoices(paying[:30]),
    ]


def _batch(
    verbose_name: str,
    function: BackgroundFunction[Any, Any],
    calls: Sequence[tuple[int, ...]],
    expected: Expectation = SUCCESS,
) -> Batch:
    count = function.using(verbose_name=verbose_name).enqueue_many(calls)
    return Batch(verbose_name, count, expected)


def _each(members: Iterable[Member]) -> list[tuple[int, ...]]:
    return [(member.pk,) for member in members]


def _welcome(members: Sequence[Member]) -> Batch:
    """Enqueue a quarter for now, and the others for one, two and three seconds later."""
    name = "welcome"
    for delay in range(4):
        later = tasks.notify_user.using(verbose_name=name, schedule=delay)
        later.enqueue_many((member.user_id,) for member in members[delay::4])
    return Batch(name, len(members))


def _next_invoices(members: Sequence[Member]) -> Batch:
    """Enqueue invoices whose time does not come today."""
    name = "next year's invoice"
    for member in members:
        tasks.send_invoice(member.pk, schedule=_morning_of(member.renews_on), verbose_name=name)
    return Batch(name, len(members), WAITING)


def _morning_of(day: date) -> datetime:
    """Return nine o'clock as a naive datetime, which is in the site's time zone."""
    return datetime.combine(day, time(9))
