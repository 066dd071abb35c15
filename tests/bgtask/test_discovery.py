"""Test where background functions are searched, and what happens to unknown tasks."""

from __future__ import annotations

import pytest

from bgtask import UnknownTask, background, registry
from bgtask.lifecycle.claim import claim_queue
from bgtask.models import Task, Worker
from bgtask.status import HeldFor
from bgtask.testing import run_due
from bgtask.worker import maintenance
from bgtask.worker.in_flight import InFlightTasks
from tests.bgtask.apps import App
from tests.factories import TaskFactory
from tests.tasks import noop

GREET = """
    from bgtask import background

    @background
    def greet():
        return "hello"
"""
SHOW_NAMES = "from bgtask import registry; print(*sorted(registry.names()), sep='\\n')"


@pytest.mark.parametrize("installed", ["shop", "shop.apps.ShopConfig"])
def test_tasks_of_every_installed_app_are_found(app: App, installed):
    app.tasks(GREET)
    app.module(
        "apps", 'from django.apps import AppConfig\nclass ShopConfig(AppConfig): name = "shop"'
    )

    shell = app.run("shell", "-c", SHOW_NAMES, installed=installed)

    assert "shop.tasks.greet" in shell.stdout.splitlines(), shell.stderr
    assert "tests.tasks.noop" in shell.stdout.splitlines()


def test_app_without_tasks_is_accepted(app: App):
    assert app.run("check").returncode == 0


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import there_is_no_such_module", "ModuleNotFoundError"),
        ("from shop import there_is_no_such_name", "ImportError"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_an_error_inside_a_tasks_module_is_raised(app: App, source, error):
    app.tasks(source)

    check = app.run("check")

    assert check.returncode != 0
    assert error in check.stderr
    assert "tasks.py" in check.stderr or "shop" in check.stderr


def test_two_functions_of_one_name_stop_every_command(app: App):
    app.tasks(GREET + GREET.replace("from bgtask import background", ""))

    check = app.run("check")

    assert check.returncode != 0
    assert "Two background functions are named 'shop.tasks.greet'" in check.stderr
    assert check.stderr.count(f"{app.path('tasks')}:") >= 2


def test_error_of_an_unknown_task_names_the_searched_modules():
    with pytest.raises(
        UnknownTask, match=r"No background function is named 'nobody' here\..*tasks"
    ):
        registry.find("nobody")
    assert not registry.knows("nobody")


# Tasks whose function is not here

UNKNOWN = "shop.tasks.gone"


@pytest.mark.django_db
def test_unknown_task_is_held_and_its_attempt_does_not_count():
    unknown = TaskFactory(task_name=UNKNOWN, priority=9)
    known = noop()

    ran = run_due()

    unknown.refresh_from_db()
    assert ran == [known]
    assert (unknown.status, unknown.held_for, unknown.attempts) == ("HELD", "unknown", 0)
    assert (unknown.last_error, unknown.history.count()) == ("", 0)
    assert unknown.get_held_for_display() == "unknown task: not registered on any worker"


@pytest.mark.django_db
def test_unknown_task_stays_held():
    TaskFactory(task_name=UNKNOWN)
    run_due()

    unheld = maintenance.unhold()

    assert unheld == 0
    assert Task.objects.held().count() == 1


@pytest.mark.django_db
def test_held_task_runs_once_its_function_is_registered():
    task = TaskFactory(task_name="shop.tasks.came_back")
    run_due()

    @background(name="shop.tasks.came_back")
    def came_back():
        return "here I am"

    maintenance.unhold()
    (ran,) = run_due()

    assert ran == task
    assert (ran.status, ran.attempts, ran.return_value) == ("SUCCESSFUL", 1, '"here I am"')


@pytest.mark.django_db
def test_task_held_by_an_operator_stays_held():
    task = noop()
    task.hold()

    maintenance.unhold()

    task.refresh_from_db()
    assert (task.status, task.held_for) == ("HELD", "operator")


@pytest.mark.parametrize(
    ("number", "words"),
    [(1, "Held 1 task whose function is not"), (2, "Held 2 tasks whose functions are not")],
)
@pytest.mark.django_db
def test_a_worker_that_holds_unknown_tasks_says_where_it_looks_for_functions(caplog, number, words):
    TaskFactory.create_batch(number, task_name=UNKNOWN)
    tasks = claim_queue(Worker.register(), "default", number, None, 0)

    InFlightTasks().set_aside(tasks, HeldFor.UNKNOWN)

    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{words} registered in this worker: {UNKNOWN}. Workers import the ")
    assert "import that module in the ready() of the app's AppConfig" in said
    assert Task.objects.held().count() == number
