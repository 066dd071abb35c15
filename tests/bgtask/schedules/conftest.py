from __future__ import annotations

from datetime import timedelta

import pytest

from bgtask.db.routing import database_now, queue_alias
from bgtask.models import Schedule
from bgtask.schedules import declarations, edit
from bgtask.schedules.definition import as_stored, check_definition, in_utc
from tests.bgtask.schedules import functions


@pytest.fixture
def declared(monkeypatch) -> dict[str, declarations.Declaration]:
    """Return the declarations of this process: for the test, those of ``functions``."""
    ours = dict(functions.DECLARED)
    monkeypatch.setattr(declarations, "_declarations", ours)
    return ours


@pytest.fixture(autouse=True)
def no_slots():
    functions.slots.clear()


def now():
    return in_utc(database_now(queue_alias()))


def make(key="tests.report", *, ago=0.0, name=functions.report.name, params="[[], {}]", **options):
    """Store a schedule of the admin, whose next slot was so many seconds ago."""
    if not {"cron", "at"} & options.keys():
        options.setdefault("every", 3600)
        options.setdefault("start", now() - timedelta(seconds=ago))
    schedule = edit.create(key, check_definition(name, params, **options))
    if "every" in options:
        Schedule.objects.filter(pk=schedule.pk).update(next_at=as_stored(options["start"]))
        schedule.refresh_from_db()
    return schedule
