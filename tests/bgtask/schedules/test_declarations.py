"""Test @recurring and its options."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from bgtask import InvalidFunction, InvalidOption, background, recurring
from bgtask.schedules import declarations as module
from bgtask.schedules.declarations import declarations


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    monkeypatch.setattr(module, "_declarations", {})


def function(name="tests.some"):
    def some(kind="daily", *, number=0):
        pass

    return background(name=name)(some)


def test_the_key_is_the_name_of_the_task_and_then_has_a_number():
    some = function()
    for _ in range(3):
        assert recurring(every=60)(some) is some
    assert list(declarations()) == ["tests.some", "tests.some#2", "tests.some#3"]


def test_two_schedules_can_not_have_one_key():
    some = recurring(every=60, key="mine")(function())
    with pytest.raises(InvalidOption, match="Two schedules have the key 'mine'"):
        recurring(every=90, key="mine")(some)


def test_a_module_that_is_imported_again_declares_its_schedules_again():
    recurring(every=60, key="mine")(function())
    recurring(every=90, key="mine")(function())
    assert declarations()["mine"].definition.expression == "90"


def test_all_options_are_kept():
    start = datetime(2026, 11, 26, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    recurring(
        cron="@daily",
        time_zone=ZoneInfo("Europe/Berlin"),
        args=["weekly"],
        kwargs={"number": 2},
        start=start,
        end=start + timedelta(days=900),
        jitter=timedelta(minutes=1),
        misfire="all",
        grace=5,
        overlap="cancel",
        queue="reports",
        priority=3,
    )(function())
    definition = declarations()["tests.some"].definition
    assert vars(definition) == {
        "task_name": "tests.some",
        "task_params": '[["weekly"], {"number": 2}]',
        "kind": "cron",
        "expression": "0 0 * * *",
        "time_zone": "Europe/Berlin",
        "start_at": "2026-11-26T11:00:00+00:00",
        "end_at": "2029-05-14T10:00:00+00:00",
        "queue": "reports",
        "priority": 3,
        "jitter": 60,
        "misfire": "all",
        "grace": 5,
        "overlap": "cancel",
    }
    assert type(definition).from_json(definition.as_json()) == definition


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of cron=, every= and at=, not none of them"),
        ({"cron": "@daily", "every": 5}, "not cron= and every="),
        ({"cron": "61 * * * *"}, "Bad minute"),
        ({"cron": 5}, "is not a cron expression"),
        ({"cron": "0 0 31 2 *"}, "Bad day-of-month"),
        ({"cron": "@daily", "time_zone": "Europe/Berln"}, "Did you mean Europe/Berlin"),
        ({"cron": "@daily", "time_zone": 5}, "is not the name of a time zone"),
        ({"every": 0}, "must be at least 1 second"),
        ({"every": 0.5}, "must be at least 1 second"),
        ({"every": -5}, "must be at least 1 second"),
        ({"every": timedelta(days=99_999)}, "less than a hundred years"),
        ({"every": "5m"}, "every takes seconds or a timedelta"),
        ({"every": True}, "every takes seconds or a timedelta"),
        ({"every": float("nan")}, "must be at least 1 second"),
        ({"at": 5}, "at takes a datetime"),
        ({"at": datetime(1066, 10, 14)}, "not within a hundred years"),
        ({"every": 5, "start": "today"}, "start takes a datetime"),
        (
            {"every": 5, "start": datetime(2026, 1, 2), "end": datetime(2026, 1, 1)},
            "is not after start=",
        ),
        ({"every": 5, "jitter": -1}, "jitter=-1 must be a whole number from 0 to"),
        ({"every": 5, "jitter": 1.5}, "jitter=1.5 must be a whole number"),
        ({"every": 5, "grace": 10**9}, "grace=1000000000 must be"),
        ({"every": 5, "grace": "a"}, "grace takes seconds"),
        ({"every": 5, "misfire": "some"}, "There are: 'one', 'none', 'all'"),
        ({"every": 5, "overlap": "Forbid"}, "There are: 'skip', 'allow', 'cancel'"),
        ({"every": 5, "queue": "a b"}, "not a valid queue name"),
        ({"every": 5, "priority": "high"}, "priority takes a whole number"),
        ({"every": 5, "key": " x"}, "key=' x' must be a string"),
        ({"every": 5, "args": "daily"}, "args='daily' must be a list"),
    ],
)
def test_an_option_that_is_wrong_is_refused_at_the_decorator(options, message):
    def declare():
        return recurring(**options)(function())

    with pytest.raises(InvalidOption, match=message):
        declare()
    assert not declarations()


def test_parameters_that_do_not_fit_are_refused_at_the_decorator():
    with pytest.raises(TypeError, match="too many positional"):
        recurring(every=5, args=[1, 2])(function())
    with pytest.raises(TypeError, match="JSON"):
        recurring(every=5, args=[object()])(function())
    assert not declarations()


@pytest.mark.parametrize("what", [lambda: None, 5, "tests.some"])
def test_only_tasks_can_recur(what):
    with pytest.raises(InvalidFunction, match="Write @recurring above @background"):
        recurring(every=5)(what)


def test_background_with_cron_declares_a_schedule_without_arguments():
    @background(name="tests.short", cron="0 3 * * *")
    def short():
        pass

    assert declarations()["tests.short"].definition.expression == "0 3 * * *"


def test_background_with_cron_needs_a_function_without_required_parameters():
    with pytest.raises(TypeError, match="missing a required argument"):

        @background(name="tests.with_a_parameter", cron="0 3 * * *")
        def short(number):
            pass
