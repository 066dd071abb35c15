"""Times by the database's clock and times by Django compare as the instants that they are."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.db import connection

from bgtask.db import DatabaseNow, operations_for
from bgtask.models import Task
from bgtask.status import Status
from bgtask_admin.actions.preview import Preview
from bgtask_admin.actions.registry import ACTIONS, Verb
from bgtask_admin.tasks.pagination import page_of
from bgtask_admin.tasks.selection import Selection
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db

# Of a second: a full one, and such as the clocks of the databases have.
FRACTIONS = (0, 1_000, 120_000, 123_000, 123_456, 999_000)


@pytest.fixture
def by_the_clock():
    """Seven tasks that ended together by one reading of the database's clock."""
    TaskFactory.create_batch(7, status=Status.FAILED)
    Task.objects.update(finished_at=DatabaseNow(-10))
    return Task.objects.first().finished_at


@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize("mixed", [False, True])
def test_pages_repeat_and_omit_nothing(by_the_clock, ascending, mixed):
    """A stored time and a parameter: rows of one instant are on one page each, both ways."""
    if mixed:  # Written by Django, of the same instant and of others.
        for fraction in FRACTIONS:
            when = by_the_clock.replace(microsecond=fraction)
            TaskFactory.create_batch(2, status=Status.FAILED, finished_at=when)
        TaskFactory.create_batch(2, status=Status.FAILED, finished_at=by_the_clock)
    expected = sorted((task.finished_at, task.pk) for task in Task.objects.all())
    expected = [pk for _, pk in (expected if ascending else expected[::-1])]

    pages = [page_of(Task.objects.all(), "finished_at", ascending=ascending, size=3)]
    while older := pages[-1].older:
        pages.append(
            page_of(Task.objects.all(), "finished_at", ascending=ascending, size=3, after=older)
        )
        assert len(pages) <= len(expected)
    back = [pages[-1]]
    while newer := back[-1].newer:
        back.append(
            page_of(Task.objects.all(), "finished_at", ascending=ascending, size=3, before=newer)
        )
        assert len(back) <= len(expected)

    assert [task.pk for one in pages for task in one.rows] == expected
    assert [one.rows for one in back[1:]] == [one.rows for one in pages[-2::-1]]


@pytest.mark.parametrize("end", ["since", "until"])
def test_a_window_holds_the_instants_at_its_ends(by_the_clock, end):
    """A stored time and a parameter: at least and at most hold what is equal."""
    tasks = Selection.parse({"status": "FAILED", end: by_the_clock.isoformat()}).tasks()

    assert tasks.count() == 7


def test_preview_includes_a_task_that_ended_at_its_instant(by_the_clock):
    """A stored time and a parameter: what ended when the operator looked is meant."""
    narrow = ACTIONS[Verb.REQUEUE].narrow(by_the_clock)

    assert Task.objects.filter(narrow).count() == 7


def test_preview_includes_a_task_that_ended_just_before():
    """A stored time and a parameter: what ended before the operator looked is meant."""
    for _ in range(50):  # Within one millisecond, now and then.
        task = TaskFactory(status=Status.FAILED)
        Task.objects.filter(pk=task.pk).update(finished_at=DatabaseNow())

        preview = Preview.take(ACTIONS[Verb.REQUEUE], Selection.parse({"status": "FAILED"}))

        assert preview.matched == Task.objects.count()


def test_a_time_by_the_clock_is_found_as_it_was_read(by_the_clock):
    """A stored time and a parameter: what was read equals what is stored."""
    for lookup, number in (("exact", 7), ("lte", 7), ("gte", 7), ("lt", 0), ("gt", 0)):
        assert Task.objects.filter(**{f"finished_at__{lookup}": by_the_clock}).count() == number
    assert Task.objects.filter(finished_at__range=(by_the_clock, by_the_clock)).count() == 7


@pytest.mark.skipif(connection.vendor != "sqlite", reason="only SQLite stores times as text")
@pytest.mark.parametrize("microsecond", [0, 1_000, 100_000, 120_000, 123_000, 999_000])
def test_sqlite_writes_its_clock_as_django_writes_a_datetime(microsecond):
    """A stored time and a parameter: at a full second too, both are the same text."""
    when = datetime(2026, 1, 2, 3, 4, 5, microsecond)
    with connection.cursor() as cursor:
        clock = operations_for(connection).clock(connection, "0")
        offset = operations_for(connection).offset(connection)
        now = (when - timedelta(seconds=offset)).isoformat(" ", "milliseconds")
        cursor.execute(f"SELECT {clock}".replace("'now'", f"'{now}'"), [])
        (text,) = cursor.fetchone()

    assert text == connection.ops.adapt_datetimefield_value(when)
