"""Another app has a command with the name of one of ours. Kind of fault: one hides the other."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.bgtask.apps import App

pytestmark = [
    pytest.mark.slow,  # Each starts a process.
    pytest.mark.vendor("sqlite"),  # The names of commands need no database; once is enough.
]

OTHER = """
    from pathlib import Path

    from django.core.management.base import BaseCommand

    Path(__file__).with_suffix(".imported").touch()

    class Command(BaseCommand):
        def handle(self, **options):
            self.stdout.write("the other queue")
"""
WRAPPER = """
    from bgtask.management.commands.{name} import Command as Original

    class Command(Original):
        help = "With the habits of the shop."
"""
SECOND_NAMES = {
    "process_tasks": "bgtask_worker",
    "bgtask_worker": "process_tasks",
    "prune_tasks": "bgtask_prune",
    "bgtask_prune": "prune_tasks",
}
NAMES = (*SECOND_NAMES, "bgtask_stats", "bgtask_health")


def give(app: App, source: str, *names: str) -> None:
    app.module("management/__init__", "")
    app.module("management/commands/__init__", "")
    for name in names:
        app.module(f"management/commands/{name}", source.format(name=name))


def reported(app: App, **options: Any) -> str:
    check = app.run("check", **options)
    assert check.returncode == 0, check.stderr
    return " ".join((check.stdout + check.stderr).split())


@pytest.mark.parametrize("name", [pytest.param(NAMES[0], marks=pytest.mark.sample), *NAMES[1:]])
def test_check_names_a_command_that_hides_ours_and_the_remedy(app: App, name: str) -> None:
    give(app, OTHER, name)

    second = SECOND_NAMES.get(name)
    way_out = f"Run manage.py {second}: it is the same command of 'bgtask'. Or put"
    assert (
        f"(bgtask.W012) manage.py {name} runs the command of 'shop', which hides that of 'bgtask'. "
        f"HINT: {way_out if second else 'Put'} 'bgtask' before 'shop' in INSTALLED_APPS."
    ) in reported(app, first="shop", installed="")


@pytest.mark.parametrize("name", ["process_tasks", "bgtask_prune"])
def test_hidden_second_name_is_not_offered_as_a_remedy(app: App, name: str) -> None:
    """Kind of fault: the remedy that a message names does not work."""
    give(app, OTHER, name, SECOND_NAMES[name])

    words = reported(app, first="shop", installed="")

    assert words.count("HINT: Put 'bgtask' before 'shop' in INSTALLED_APPS.") == 2
    assert "it is the same command" not in words


@pytest.mark.parametrize("name", SECOND_NAMES)
def test_both_names_of_a_command_are_the_same_command(app: App, name: str) -> None:
    ours, second = (app.run(one, "--help") for one in (name, SECOND_NAMES[name]))

    assert (ours.returncode, ours.stderr) == (0, "")
    assert f".py {name} [" in ours.stdout
    words = [" ".join(one.stdout.split()) for one in (ours, second)]
    assert words[0].replace(name, SECOND_NAMES[name]) == words[1]


def test_named_command_is_the_one_that_runs(app: App) -> None:
    give(app, OTHER, "process_tasks")

    assert app.run("process_tasks", first="shop", installed="").stdout == "the other queue\n"
    assert "--drain" in app.run("process_tasks", "--help").stdout


@pytest.mark.sample
def test_command_hidden_by_ours_is_only_an_information(app: App) -> None:
    give(app, OTHER, "process_tasks", "sell")

    words = reported(app)

    assert "bgtask.W012" not in words
    assert re.findall(
        r"\(bgtask\.I012\) manage.py (\w+) runs .*? hides that of '(\w+)'", words
    ) == [("process_tasks", "shop")]


@pytest.mark.parametrize("order", ["first", "installed"])
def test_the_other_command_is_not_imported(app: App, order: str) -> None:
    give(app, OTHER, "process_tasks")

    reported(app, **{"installed": "", order: "shop"})

    assert not app.path("management/commands/process_tasks").with_suffix(".imported").exists()


@pytest.mark.parametrize("through", [pytest.param("", marks=pytest.mark.sample), "another module"])
def test_subclass_of_our_command_is_accepted(app: App, through: str) -> None:
    give(app, WRAPPER, *NAMES)
    if through:
        app.module("workers", WRAPPER.format(name="process_tasks"))
        give(app, "from shop.workers import Command", "process_tasks")

    assert "012)" not in reported(app, first="shop", installed="")


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("1 / 0", marks=pytest.mark.sample),
        "import sys; sys.exit(3)",
        "def broken(:",
        "from nowhere import Command",
        "x = 1",
    ],
)
def test_a_broken_command_does_not_break_the_check(app: App, source: str) -> None:
    give(app, source, "process_tasks")

    assert "(bgtask.W012) manage.py process_tasks" in reported(app, first="shop", installed="")
