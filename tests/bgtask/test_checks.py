"""
Test that system checks report mistakes before a start, with an id and a remedy.

The module is long because each system check has its own case.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import django
import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, connections, router
from django.test import modify_settings

from bgtask.checks import (
    SQLITE_OPTIONS,
    check_backends,
    check_databases,
    check_legacy_settings,
    check_settings,
)
from bgtask.worker import Runner
from tests.bgtask.apps import App

TOKEN = "x" * 32
POSTGRESQL = "django.db.backends.postgresql"
WAL = {"init_command": "PRAGMA journal_mode=WAL"}


def test_checks_pass_for_the_project_of_the_tests(app: App):
    check = app.run("check", "--database=default")

    assert check.returncode == 0, check.stderr
    assert "(bgtask." not in check.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")
def test_deployment_check_warns_root():
    def reported():
        return {message.id for message in run_checks(None, ["bgtask"], True)}

    assert "bgtask.W009" in reported()
    os.seteuid(65534)
    try:
        assert "bgtask.W009" not in reported()
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("bgtask", "id_", "words"),
    [
        ({"LEES": 60}, "bgtask.E001", "Unknown option BGTASK['LEES']"),
        (
            {"LEASE": 10, "HEARTBEAT_INTERVAL": 10},
            "bgtask.E001",
            "at least twice BGTASK['HEARTBEAT_INTERVAL']",
        ),
        ({"MAX_RUN_TIME": "1 h"}, "bgtask.E001", "BGTASK['MAX_RUN_TIME'] must be a duration"),
        ({"LEASE": 30, "HEARTBEAT_INTERVAL": 10}, "bgtask.W001", "less than four times"),
        ({"MONITOR_TOKENS": ["short", TOKEN]}, "bgtask.W002", "shorter than 32 characters"),
    ],
)
def test_check_reports_contradictory_settings(settings, bgtask, id_, words):
    settings.BGTASK = bgtask

    (message,) = check_settings()

    assert message.id == id_
    assert words in message.msg
    assert message.hint


def test_check_reports_listening_without_notifications(settings, monkeypatch):
    monkeypatch.setitem(connections.settings, "direct", {"ENGINE": POSTGRESQL})
    monkeypatch.setattr(router, "db_for_write", lambda model: "other")
    settings.BGTASK = {"LISTEN": "direct"}

    (message,) = check_settings()

    assert message.id == "bgtask.E005"
    assert "the tasks are in 'other', a database of sqlite" in message.msg


@pytest.mark.parametrize(
    "bgtask", [{}, {"LEASE": 40, "HEARTBEAT_INTERVAL": 10}, {"MONITOR_TOKENS": [TOKEN]}], ids=repr
)
def test_check_accepts_sensible_settings(settings, bgtask):
    settings.BGTASK = bgtask

    assert check_settings() == []


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("BACKGROUND_TASK_RUN_ASYNC", True, "--threads=N"),
        ("BACKGROUND_TASK_ASYNC_THREADS", 4, "--threads=N"),
        ("BACKGROUND_TASK_PRIORITY_ORDERING", "ASC", "the higher priority is first"),
    ],
)
def test_check_reports_unread_settings_of_the_original(settings, name, value, hint):
    setattr(settings, name, value)

    (message,) = [one for one in run_checks() if one.id == "bgtask.W008"]

    assert message.msg == f"The setting {name} is not read by bgtask."
    assert hint in message.hint


def test_check_ignores_settings_of_the_original_while_it_is_installed(
    settings, tmp_path, monkeypatch
):
    settings.BACKGROUND_TASK_RUN_ASYNC = True
    (tmp_path / "background_task").mkdir()
    (tmp_path / "background_task" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    with modify_settings(INSTALLED_APPS={"append": "background_task"}):
        assert not [one for one in run_checks() if one.id == "bgtask.W008"]


def test_check_accepts_settings_of_the_original_that_are_read(settings):
    settings.MAX_ATTEMPTS = 3
    settings.MAX_RUN_TIME = 60

    assert [*check_settings(), *check_legacy_settings()] == []


# Functions


def test_check_reports_task_names_that_differ_only_in_case(app: App):
    app.tasks("""
        from bgtask import background

        @background(name="shop.Send")
        def one(): ...

        @background(name="shop.send")
        def other(): ...
    """)

    check = app.run("check")

    assert check.returncode == 1
    assert "(bgtask.E002)" in check.stderr
    assert "'shop.Send'" in check.stderr
    assert "'shop.send'" in check.stderr
    assert "HINT: Give one of them another name" in check.stderr


def test_check_reports_parameters_named_like_options(app: App):
    app.tasks("""
        from bgtask import background

        @background
        def announce(queue, text): ...
    """)

    check = app.run("check")

    assert check.returncode == 0
    assert "(bgtask.W003) shop.tasks.announce has a parameter named 'queue'" in check.stderr
    assert "HINT: Use announce.using(queue=…)(…)" in check.stderr
    assert "option (its other name is queue_name=)" in check.stderr


# Databases


@pytest.mark.vendor("sqlite")
@pytest.mark.parametrize(
    ("options", "id_"),
    [
        (WAL, "bgtask.W006"),
        (WAL | {"transaction_mode": "DEFERRED"}, "bgtask.W006"),
        ({"transaction_mode": "IMMEDIATE"}, "bgtask.W005"),
    ],
)
def test_check_reports_a_slow_sqlite_configuration(app: App, tmp_path, options, id_):
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "new.sqlite3")}

    check = app.run("check", "--database=default", database=database | {"OPTIONS": options})

    assert check.returncode == 0
    assert check.stderr.count("bgtask.") == check.stderr.count(id_) == 1
    assert f"Set its OPTIONS to {SQLITE_OPTIONS}." in check.stderr.split("HINT:")[1]


@pytest.mark.vendor("sqlite")
@pytest.mark.parametrize("mode", ["immediate", "Exclusive"])
def test_check_accepts_the_transaction_mode_in_lower_case(app: App, tmp_path, mode):
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "new.sqlite3")}
    options = WAL | {"transaction_mode": mode}

    check = app.run("check", "--database=default", database=database | {"OPTIONS": options})

    assert check.returncode == 0
    assert "bgtask." not in check.stderr


@pytest.mark.vendor("sqlite")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("mode", ["OFF", "NORMAL", "FULL", "EXTRA"])
def test_check_reports_a_sqlite_that_loses_tasks_in_a_power_cut(mode):
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA synchronous = {mode}")
    try:
        found = [one for one in check_databases(databases=["default"]) if one.id == "bgtask.W013"]
    finally:
        connection.close()

    assert len(found) == (mode in ("OFF", "NORMAL"))
    for message in found:
        assert "A power cut loses the tasks" in message.hint
        assert "synchronous=FULL" in message.hint


@pytest.mark.vendor("mysql")
@pytest.mark.django_db
def test_check_reports_another_isolation_level(app: App):
    options = connection.settings_dict["OPTIONS"] | {"isolation_level": "repeatable read"}

    check = app.run("check", "--database=default", database={"OPTIONS": options})

    assert "(bgtask.W007)" in check.stderr
    assert "REPEATABLE READ" in check.stderr
    assert "HINT: Claims would lock gaps" in check.stderr


@pytest.mark.vendor("mysql")
@pytest.mark.django_db
@pytest.mark.parametrize(("version", "too_old"), [((10, 7, 9), True), ((10, 8, 0), False)])
def test_check_reports_an_old_mariadb(monkeypatch, version, too_old):
    # No such server is available here.
    monkeypatch.setattr(connections["default"], "mysql_version", version)

    messages = [one for one in check_databases(databases=["default"]) if one.id == "bgtask.E004"]

    assert bool(messages) == too_old
    for message in messages:
        assert message.msg == "MariaDB 10.7.9 is too old."
        assert "Use 10.8 or later" in message.hint


@pytest.mark.django_db
def test_check_reports_a_time_zone_with_summer_time(app: App):
    check = app.run("check", "--database=default", database={"TIME_ZONE": "Europe/Berlin"})

    # PostgreSQL keeps instants, whatever the zone.
    assert ("(bgtask.W004)" in check.stderr) == (connection.vendor != "postgresql")


@pytest.mark.django_db
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
def test_check_accepts_a_time_zone_without_summer_time(app: App, zone):
    check = app.run("check", "--database=default", database={"TIME_ZONE": zone})

    assert check.returncode == 0, check.stderr
    assert "(bgtask." not in check.stderr


# AUTOCOMMIT: the kind of fault is a setting with which all seems to work, and nothing is kept


@pytest.fixture
def _without_autocommit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(connection.settings_dict, "AUTOCOMMIT", False)


@pytest.mark.usefixtures("_without_autocommit")
def test_a_queue_whose_database_commits_nothing_is_an_error():
    (message,) = [found for found in run_checks(None, ["bgtask"]) if found.id == "bgtask.E010"]

    assert message.is_serious()
    assert "DATABASES['default']['AUTOCOMMIT'] is False" in message.msg
    assert "set it to True" in message.msg


def test_check_ignores_autocommit_of_other_databases(settings, monkeypatch):
    monkeypatch.setitem(connections["default"].settings_dict, "AUTOCOMMIT", False)
    monkeypatch.setitem(connections.settings, "other", connections.settings["default"])
    settings.DATABASE_ROUTERS = ["tests.bgtask.test_checks.ToOther"]
    monkeypatch.setattr(
        connections["other"], "settings_dict", {**connection.settings_dict, "AUTOCOMMIT": True}
    )

    assert not [found for found in run_checks(None, ["bgtask"]) if found.id == "bgtask.E010"]


class ToOther:
    def db_for_write(self, model, **hints):
        return "other"


@pytest.mark.parametrize(
    "command",
    [("process_tasks", "--drain"), ("prune_tasks",), ("bgtask_requeue", "--status=FAILED")],
    ids=lambda command: command[0],
)
def test_commands_that_write_refuse_to_start_without_autocommit(app: App, command):
    refused = app.run(*command, "--skip-checks", database={"AUTOCOMMIT": False})

    assert refused.returncode == 1
    assert "CommandError: DATABASES['default']['AUTOCOMMIT'] is False" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.usefixtures("_without_autocommit")
def test_a_runner_refuses_to_start_without_autocommit():
    with pytest.raises(ImproperlyConfigured, match="AUTOCOMMIT"):
        Runner()


# The backends of TASKS

TASKS = {"default": {"BACKEND": "bgtask.backend.BgtaskBackend", "QUEUES": ["two words"]}}


@pytest.mark.skipif(django.VERSION >= (6, 0), reason="Django has tasks since 6.0")
def test_backend_on_a_django_without_tasks_is_reported(settings):
    settings.TASKS = TASKS

    (message,) = check_backends()

    installed = find_spec("django_tasks") is not None
    assert message.id == ("bgtask.E012" if installed else "bgtask.E015")


@pytest.mark.skipif(django.VERSION < (6, 0), reason="Django has tasks since 6.0")
def test_django_itself_runs_the_checks_of_a_backend(settings):
    settings.TASKS = TASKS

    assert check_backends() == []
    assert "bgtask.E012" in {message.id for message in run_checks()}


def test_other_backends_are_not_checked(settings):
    settings.TASKS = {"default": {"BACKEND": "shop.Backend"}}

    assert check_backends() == []
