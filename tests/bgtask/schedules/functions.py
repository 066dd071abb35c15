"""Define background functions with schedules, for the tests."""

from __future__ import annotations

from datetime import datetime

from bgtask import background, current_task, recurring
from bgtask.schedules.declarations import _declarations

slots: list[datetime | None] = []


@background(queue="reports", priority=2)
def report(kind="daily", number=0):
    current = current_task()
    slots.append(current.slot if current else None)


@background(name="tests.once_at_a_time", unique=True)
def once_at_a_time(number=1):
    pass


@background(name="tests.strictly_once", unique=True, on_conflict="raise")
def strictly_once(number=1):
    pass


@recurring(cron="0 9 * * mon-fri", time_zone="Europe/Berlin", kwargs={"kind": "morning"})
@recurring(every=300, key="tests.often", args=["often"], overlap="allow", jitter=10)
@background(name="tests.declared")
def declared(kind="daily"):
    pass


@background(name="tests.nightly", cron="@daily")
def nightly():
    pass


# Other tests start workers, which must not fire these.
DECLARED = {
    key: _declarations.pop(key) for key in ("tests.declared", "tests.often", "tests.nightly")
}
