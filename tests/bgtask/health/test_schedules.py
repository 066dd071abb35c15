"""Test that a schedule that no worker fires in time is part of the verdict."""

from __future__ import annotations

import pytest

from bgtask import health
from bgtask.db import DatabaseNow
from bgtask.health import Level
from bgtask.models import Schedule
from tests.bgtask.schedules.conftest import make
from tests.factories import WorkerFactory

pytestmark = pytest.mark.django_db


def late(seconds, **columns):
    schedule = make(f"tests.{seconds}")
    Schedule.objects.filter(pk=schedule.pk).update(next_at=DatabaseNow(-seconds), **columns)


@pytest.mark.parametrize(
    ("seconds", "level"),
    [(60, Level.PASS), (115, Level.PASS), (125, Level.WARN), (590, Level.WARN), (610, Level.FAIL)],
)
def test_a_schedule_is_late_after_a_minute_beyond_its_grace_and_very_late_after_ten(seconds, level):
    late(seconds)
    assert health.check().status == level


def test_the_reason_names_the_latest_and_counts_all():
    late(300)
    late(7200)
    (reason,) = health.check().reasons
    assert reason.measure == "schedule_late"
    assert reason.text == "2 schedules are late, tests.7200 by 2 h"
    assert health.check(["mail"]).late_schedules is None


def test_grace_is_added():
    late(300, grace=600)
    assert health.check().status == Level.PASS


@pytest.mark.parametrize(
    "columns",
    [
        {"paused_at": DatabaseNow()},
        {"retired_at": DatabaseNow()},
        {"source": "code", "declared_at": DatabaseNow(-3600)},
    ],
)
def test_a_schedule_that_must_not_fire_is_not_late(columns):
    WorkerFactory()
    late(7200, **columns)
    assert health.check().late_schedules == ()


@pytest.mark.parametrize("worker", [{}, {"dead": True}, {"silent": True}])
def test_a_schedule_of_code_is_late_if_no_worker_is_alive(worker):
    if worker:
        WorkerFactory(**worker)
    late(7200, source="code", declared_at=DatabaseNow(-86_000))
    assert [one.key for one in health.check().late_schedules] == ["tests.7200"]


def test_a_schedule_of_living_code_is_late():
    late(7200, source="code", declared_at=DatabaseNow(-600))
    assert health.check().status == Level.FAIL
