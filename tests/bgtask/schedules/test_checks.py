"""Test the system checks of schedules and of unique tasks."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.checks import run_checks

from bgtask import background, recurring, registry
from bgtask.db import DatabaseNow
from bgtask.models import Schedule
from bgtask.schedules import declarations
from tests.bgtask.schedules.conftest import make


def found(id_, **options):
    return [one for one in run_checks(**options) if one.id == id_]


@pytest.fixture
def function(monkeypatch):
    monkeypatch.setattr(declarations, "_declarations", {})
    monkeypatch.setattr(registry, "_functions", {})
    return background(name="tests.checked")(lambda_free)


def lambda_free():
    pass


def test_several_schedules_without_keys_are_reported(function):
    recurring(every=60)(function)
    assert not found("bgtask.W014")
    recurring(every=60, key="own")(function)
    assert not found("bgtask.W014")
    recurring(every=90)(function)
    (message,) = found("bgtask.W014")
    assert message.msg == "tests.checked has 2 schedules without a key."


@pytest.mark.parametrize(("days", "number"), [(6, 0), (8, 1)])
def test_a_key_that_is_held_for_longer_than_tasks_are_kept_is_reported(function, days, number):
    background(name="tests.kept", unique=True, unique_for=timedelta(days=days))(lambda_free)
    assert len(found("bgtask.W015")) == number


@pytest.mark.django_db
def test_retired_schedules_are_listed():
    make("tests.renamed")
    assert not found("bgtask.I016", databases=["default"])
    Schedule.objects.update(retired_at=DatabaseNow())
    (message,) = found("bgtask.I016", databases=["default"])
    assert "tests.renamed" in message.msg
