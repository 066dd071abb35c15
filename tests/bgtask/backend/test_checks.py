"""What the system checks say about TASKS."""

from __future__ import annotations

import pytest

from bgtask.backend import BgtaskBackend

PATH = "bgtask.backend.BgtaskBackend"


def messages(**params):
    backend = BgtaskBackend("default", {"BACKEND": PATH, **params})
    return {message.id: f"{message.msg} {message.hint}" for message in backend.check()}


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"QUEUES": []},
        {"QUEUES": ["default", "mail"]},
        {"OPTIONS": {}},
        {"OPTIONS": {"max_attempts": 3, "max_run_time": 60, "backoff": 5, "modules": ["json"]}},
        {"OPTIONS": {"max_attempts": None, "backoff": lambda attempts: 1}},
    ],
)
def test_good_settings_are_not_mentioned(params):
    assert messages(**params) == {}


def test_an_invalid_queue_is_reported():
    found = messages(QUEUES=["default", "two words"])

    assert "TASKS['default']['QUEUES']" in found["bgtask.E012"]
    assert "'two words' is not a valid queue name" in found["bgtask.E012"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_attempt": 3}, "OPTIONS['max_attempt'] is unknown. There are: backoff, max_"),
        ({"max_attempts": 0}, "max_attempts takes the number of executions"),
        ({"backoff": -1}, "backoff takes seconds"),
        ({"database": "other"}, "the database router decides"),
        ({"modules": "shop.jobs"}, "It must be a list of modules"),
        ({"modules": [3]}, "It must be a list of modules"),
        ({"modules": 3}, "It must be a list of modules"),
        ("max_attempts=3", "It must be a dictionary"),
    ],
)
def test_wrong_options_are_reported(options, words):
    found = messages(OPTIONS=options)

    assert words in found["bgtask.E013"]


def test_a_module_that_cannot_be_imported_is_reported():
    found = messages(OPTIONS={"modules": ["does_not_exist"]})

    assert "'does_not_exist' of TASKS['default']" in found["bgtask.E014"]
    assert "ModuleNotFoundError" in found["bgtask.E014"]


def test_bgtask_must_be_installed(settings):
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if "bgtask" not in app]

    assert "not in INSTALLED_APPS" in messages()["bgtask.E011"]
