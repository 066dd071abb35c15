"""Describe how all tasks ended, and check that they ended as they should."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime

from django.db.models import Sum
from django.utils import timezone
from PIL import Image

from bgtask.conf import get_settings
from bgtask.models import Task
from bgtask.status import Status
from example_project.members import cards
from example_project.members.conf import settings
from example_project.members.demo.scenario import Batch
from example_project.members.models import Debit, Member, PaymentReport, Registration
from example_project.members.payments import Sums

WIDTH = 78


@dataclass(frozen=True)
class Row:
    """The columns of a task that are shown."""

    task_name: str
    verbose_name: str
    status: str
    attempts: int
    max_attempts: int | None
    error_class: str
    run_at: datetime

    @property
    def function(self) -> str:
        return self.task_name.rpartition(".")[2]


Rows = dict[int, Row]


def read_rows() -> Rows:
    columns = [field.name for field in fields(Row)]
    return {pk: Row(*values) for pk, *values in Task.objects.values_list("pk", *columns)}


def count_as_expected(batches: Sequence[Batch], rows: Rows) -> int:
    """Return how many tasks of these batches stand as they should."""
    expected = {batch.verbose_name: batch.expected for batch in batches}
    return sum(
        row.verbose_name in expected
        and expected[row.verbose_name].is_met_by(row.status, row.attempts, row.error_class)
        for row in rows.values()
    )


def describe(rows: Rows) -> Iterator[str]:
    """Yield the lines of a paragraph for each state of tasks, with numbers and reasons."""
    groups: dict[str, dict[tuple[str, str], list[int]]] = defaultdict(lambda: defaultdict(list))
    for pk, row in rows.items():
        groups[_heading(row)][row.function, row.error_class].append(pk)
    for heading in HEADINGS:
        if heading in groups:
            total = sum(len(pks) for pks in groups[heading].values())
            yield f"{heading}: {total}"
            for (function, _), pks in sorted(groups[heading].items()):
                yield f"  {len(pks):4} {function:<26}{_manner(rows, pks)}".rstrip()
                yield from _reason(pks)


HEADINGS = ["Succeeded", "Waiting for their time", "Being retried", "Failed", "Not ended"]


def _heading(row: Row) -> str:
    match row.status:
        case Status.SUCCESSFUL:
            return "Succeeded"
        case Status.FAILED:
            return "Failed"
        case Status.SCHEDULED:
            return "Being retried" if row.attempts else "Waiting for their time"
    return "Not ended"


def _manner(rows: Rows, pks: Sequence[int]) -> str:
    first = min((rows[pk] for pk in pks), key=lambda row: row.run_at)
    attempts = max(rows[pk].attempts for pk in pks)
    match first.status:
        case Status.SUCCESSFUL:
            return f"each at attempt {attempts}" if attempts > 1 else ""
        case Status.FAILED:
            return f"after {attempts} attempts" if attempts > 1 else "after its only attempt"
        case Status.SCHEDULED if attempts:
            seconds = (first.run_at - timezone.now()).total_seconds()
            most = first.max_attempts or get_settings().max_attempts
            return f"attempt {attempts} of {most}, the next in {max(seconds, 0):.0f} s"
        case Status.SCHEDULED:
            return f"the first on {timezone.localtime(first.run_at):%d %b %Y at %H:%M}"
    statuses = Counter(rows[pk].status for pk in pks)
    return ", ".join(f"{count} {status}" for status, count in statuses.items())


def _reason(pks: Sequence[int]) -> Iterator[str]:
    """
    Yield the error of the first task, in a line.

    One error stands for all errors of its class.
    """
    errors = Task.objects.filter(pk__in=pks).order_by("pk")
    kind, message = errors.values_list("error_class", "error_message")[0]
    if kind:
        line = f"{kind.rpartition('.')[2]}: {message}"
        yield "       " + textwrap.shorten(line, WIDTH - 7, placeholder=" ...")


@dataclass(frozen=True)
class Check:
    """A condition that must hold, and what was found."""

    good: bool
    text: str


def check_everything(
    batches: Sequence[Batch], rows: Rows, sums: dict[int, Sums]
) -> Iterator[Check]:
    total, good = sum(batch.count for batch in batches), count_as_expected(batches, rows)
    yield Check(good == total == len(rows), f"{good} of {total} tasks stand as they should")
    yield _check_mails(rows)
    drawn = _count_cards()
    yield Check(drawn == Member.objects.count(), f"{drawn} membership cards can be opened")
    yield _check_report(sums)
    debits, registered = Debit.objects.count(), Registration.objects.exclude(confirmed_at=None)
    yield Check(
        debits == _succeeded(rows, "debit_fee"), f"{debits} fees debited, none of them twice"
    )
    yield Check(
        registered.count() == _succeeded(rows, "register_with_federation"),
        f"{registered.count()} members registered, each at the third call",
    )


def _succeeded(rows: Rows, *functions: str) -> int:
    return sum(
        row.status == Status.SUCCESSFUL and row.function in functions for row in rows.values()
    )


def _check_mails(rows: Rows) -> Check:
    sent = _succeeded(rows, "notify_user", "send_invoice")
    if settings.OUTBOX is None:
        return Check(True, f"{sent} mails handed to the server of EMAIL_URL")
    files = len(list(settings.OUTBOX.glob("*.eml")))
    return Check(files == sent, f"{files} mails in the outbox, for {sent} that were sent")


def _count_cards() -> int:
    """Return how many files are real pictures of the size of a card."""
    sizes = []
    for file in (settings.MEDIA_ROOT / "cards").glob("*.png"):
        with Image.open(file) as card:
            card.verify()
            sizes.append(card.size)
    return sizes.count(cards.SIZE)


def _check_report(sums: dict[int, Sums]) -> Check:
    reported = {
        month: Sums(payments, refunds, cents)
        for month, payments, refunds, cents in PaymentReport.objects.values_list(
            "month", "payments", "refunds", "total_cents"
        )
    }
    total = (PaymentReport.objects.aggregate(sum=Sum("total_cents"))["sum"] or 0) / 100
    direct = sum(month.total_cents for month in sums.values()) / 100
    return Check(
        reported == sums,
        f"{total:,.2f} reported for {len(reported)} months, {direct:,.2f} counted directly",
    )
