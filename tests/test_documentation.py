"""
Test that what people paste from the documentation works: code, commands and links.

The module is long because each kind of example in the documentation is run in its own way.
"""

from __future__ import annotations

import ast
import configparser
import importlib
import re
import shlex
import sys
import tomllib
import unittest
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.management import get_commands, load_command_class
from django.urls import resolve
from django.utils.module_loading import import_string

from bgtask import registry
from bgtask.checks import SQLITE_OPTIONS
from bgtask.conf import get_settings
from bgtask.db import DatabaseNow
from bgtask.models import Schedule, Task
from bgtask.schedules import declarations, declaring
from bgtask.schedules.fire import fire_due
from bgtask.testing import enqueued, run_due
from tests.bgtask.apps import App
from tests.bgtask.conftest import app as app
from tests.processes import ROOT

DOCUMENTS = [ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))
# freezegun and time-machine read the attributes of every module, deprecated ones too.
# Django 6.1 wants a setting for mails that 5.2 doesn't have, and the tests have the one of 5.2.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]


@dataclass(frozen=True)
class Block:
    """A block of code between two fences, with the heading that it is under."""

    document: Path
    heading: str
    language: str
    source: str

    @property
    def name(self) -> str:
        return f"{self.document.relative_to(ROOT)}: {self.heading}"


def blocks(language: str) -> list[Block]:
    found = []
    for document in DOCUMENTS:
        heading = ""
        text = document.read_text(encoding="utf-8")
        pattern = r"^#+ ([^\n]+)$|^( *)```(\w*)\n(.*?)^\2```$"
        for title, indent, kind, source in re.findall(pattern, text, re.MULTILINE | re.DOTALL):
            heading = title or heading
            if kind == language:
                source = re.sub(f"^{indent}", "", source, flags=re.MULTILINE)
                found.append(Block(document, heading, kind, source))
    return found


def python(name: str, number: int = 0) -> str:
    """Return the source of this Python block. ``name`` is that of its document and heading."""
    EXECUTED.add((name, number))
    return [block.source for block in blocks("python") if block.name == name][number]


def run(source: str, **names: Any) -> dict[str, Any]:
    exec(compile(source, "documentation", "exec"), names)  # noqa: S102
    return names


EXECUTED: set[tuple[str, int]] = set()
FIRST_TASK = python("README.md: The first task")
APP_CONFIG = python("README.md: The first task", 1)
OPTIONS = python("README.md: Options")
REPEATS = python("README.md: Tasks that repeat, and tasks that are stored once")
SCHEDULES = python("docs/schedules.md: Declaring a schedule")
UNIQUE = python("docs/unique-tasks.md: Which calls are the same")
DEBOUNCED = python("docs/unique-tasks.md: Waiting until it is quiet")
SQLITE = python("README.md: Databases")
TEST_CASE = python("README.md: Testing your tasks")
WITH_PYTEST = python("README.md: Testing your tasks", 1)
TRAVELLED = python("README.md: Testing your tasks", 2)
URLS = python("docs/monitoring.md: Setting it up")
TOKENS = python("docs/monitoring.md: Setting it up", 1)
THRESHOLDS = python("docs/monitoring.md: Many queues")
POOLER = python("docs/reliability.md: Connection poolers")
BACKEND = python("docs/django-tasks.md: Using bgtask as the backend of Django's tasks")
BACKENDS = [
    python("README.md: Django's own tasks"),
    BACKEND,
    python("docs/changing-backends.md: From another backend to bgtask"),
]
DJANGO_TASK = python("docs/django-tasks.md: Defining a task")
DJANGO_TASK_TEST = python("docs/django-tasks.md: Testing")


@pytest.fixture
def myapp(tmp_path, monkeypatch):
    """Return the tasks of the app in the README. Other examples are in modules beside it."""
    package = tmp_path / "myapp"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tasks.py").write_text(FIRST_TASK)
    (package / "repeats.py").write_text(REPEATS)
    (package / "schedules.py").write_text(SCHEDULES)
    (package / "unique.py").write_text(UNIQUE + DEBOUNCED)
    monkeypatch.setattr(declarations, "_declarations", {})
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("myapp.tasks")
    for name in [name for name in sys.modules if name.partition(".")[0] == "myapp"]:
        del sys.modules[name]
    for name in registry.names():
        if name.startswith("myapp."):
            del registry._functions[name]


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.name)
def test_every_python_block_is_whole(block):
    """Kind of fault: a block that fails where it is pasted."""
    ast.parse(block.source)


def test_every_python_block_is_executed_by_a_test_of_this_module():
    names = [block.name for block in blocks("python")]

    assert {(name, number) for name in names for number in range(names.count(name))} == EXECUTED


# README


@pytest.mark.django_db
def test_the_first_task_runs(myapp, mailoutbox):
    user = User.objects.create_user("ada", email="ada@example.org")

    myapp.notify_user(user.id)
    run_due(scheduled=True)

    assert [mail.subject for mail in mailoutbox] == ["Here is a notification"]


def test_tasks_of_another_module_are_found_as_the_readme_says(app: App):
    app.module("mails", "from bgtask import background\n@background\ndef send(): pass")
    app.module("apps", APP_CONFIG.replace("myapp", "shop"))
    code = "from bgtask import registry; print(registry.knows('shop.mails.send'))"

    known = app.run("shell", "--no-imports", "-c", code, installed="shop.apps.MyAppConfig")

    assert known.stdout.split() == ["True"], known.stderr


@pytest.mark.django_db
def test_the_options_are_as_shown(myapp, mailoutbox):
    user = User.objects.create_user("ada", email="ada@example.org")

    run(OPTIONS, user=user)

    assert enqueued(myapp.notify_user).count() == 5
    assert enqueued(myapp.notify_user, user.id).get(queue="mail")
    assert len(mailoutbox) == 1


@pytest.mark.django_db
def test_the_line_for_async_code_is_as_shown(myapp):
    line = re.search(r"write `(await notify_user.aenqueue.+?)`", (ROOT / "README.md").read_text())
    source = f"async def view(user):\n    {line[1]}\n"
    names = run(source, notify_user=myapp.notify_user)

    async_to_sync(names["view"])(User(pk=7))

    assert enqueued(myapp.notify_user, 7).count() == 1


@pytest.mark.django_db
def test_the_examples_of_schedules_declare_them(myapp):
    importlib.import_module("myapp.repeats")
    schedules = importlib.import_module("myapp.schedules")
    assert list(declarations.declarations()) == [
        "myapp.repeats.hourly",
        "myapp.repeats.report",
        "report.often",
        "myapp.schedules.report",
        "myapp.schedules.clean_up",
    ]
    declaring.declare()
    Schedule.objects.filter(key="report.often").update(next_at=DatabaseNow(-1), jitter=0)
    fire_due()
    (task,) = run_due()
    assert task.task_name == schedules.report.name
    assert task.return_value.startswith('"short report of 20')


@pytest.mark.django_db
def test_the_examples_of_unique_tasks_are_stored_once(myapp):
    unique = importlib.import_module("myapp.unique")
    for call in (unique.reindex, unique.reprice, unique.load, unique.remind, unique.publish):
        assert call("1").pk == call("1").pk
    assert Task.objects.count() == 5


@pytest.mark.django_db
def test_the_test_case_passes(myapp):
    names = run(TEST_CASE, __name__="myapp.tests")
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(names["NotifyUserTest"])

    result = suite.run(unittest.TestResult())

    assert result.testsRun == 2
    assert (result.errors, result.failures) == ([], [])


@pytest.mark.django_db
def test_the_test_for_pytest_passes(myapp, db, mailoutbox):
    run(WITH_PYTEST)["test_a_user_is_notified"](db, mailoutbox)


@pytest.mark.django_db
def test_the_test_that_travels_in_time_passes(myapp, db, django_user_model, mailoutbox):
    test = run(TRAVELLED)["test_a_user_is_notified_an_hour_later"]

    test(db, django_user_model, mailoutbox)


@pytest.mark.vendor("sqlite")
def test_no_check_warns_of_the_options_for_sqlite(app: App, tmp_path):
    database = run(SQLITE, BASE_DIR=tmp_path)["DATABASES"]["default"]

    check = app.run(
        "check", "--database=default", database=database | {"NAME": str(tmp_path / "x")}
    )

    assert (check.returncode, check.stderr) == (0, "")
    assert database["OPTIONS"] == ast.literal_eval(SQLITE_OPTIONS)


# Other documents


@pytest.mark.parametrize("tokens", ["", "one", "one two"])
def test_the_settings_for_monitoring_may_be_pasted(settings, monkeypatch, tokens):
    """Kind of fault: an environment variable that nobody set ends every command."""
    monkeypatch.setenv("BGTASK_MONITOR_TOKENS", tokens)
    if not tokens:
        monkeypatch.delenv("BGTASK_MONITOR_TOKENS")

    settings.BGTASK = run(TOKENS)["BGTASK"]

    assert get_settings().monitor_tokens == tuple(tokens.split())


def test_the_urls_for_monitoring_may_be_pasted():
    names = run(URLS)
    urls = type(sys)("urls")
    urls.__dict__.update(names)

    for path in ("health", "stats", "metrics"):
        assert resolve(f"/bgtask/{path}", urlconf=urls)


@pytest.mark.parametrize("source", [THRESHOLDS], ids=["thresholds"])
def test_the_settings_shown_are_valid(settings, source):
    settings.BGTASK = run(source)["BGTASK"]

    assert get_settings().thresholds["queues"]["reports"] == {"oldest_ready": (600, 3600)}


def test_the_settings_for_a_pooler_are_valid():
    names = run(POOLER)

    assert names["BGTASK"]["LISTEN"] in names["DATABASES"]


@pytest.fixture
def api():
    """Return Django's API for tasks. Django 5.2 has none without the package django-tasks."""
    return pytest.importorskip("bgtask.backend.api")


@pytest.mark.parametrize("source", BACKENDS, ids=["readme", "backend", "change"])
def test_the_settings_for_djangos_tasks_are_valid(api, source):
    params = run(source)["TASKS"]["default"]

    backend = import_string(params["BACKEND"])("default", params)

    assert list(backend.check()) == []


@pytest.mark.django_db
def test_the_task_of_djangos_api_and_its_test_are_as_shown(api, tmp_path, monkeypatch, settings):
    (tmp_path / "letters.py").write_text(DJANGO_TASK.replace("django.tasks", api.PACKAGE))
    monkeypatch.syspath_prepend(tmp_path)
    backends = run(BACKEND)["TASKS"]
    settings.TASKS = {"default": backends["default"] | {"OPTIONS": {"modules": ["letters"]}}}
    send = importlib.import_module("letters").send
    monkeypatch.setitem(sys.modules, "letters", sys.modules.pop("letters"))  # Until the test ends.

    send.enqueue("ada@example.org")
    run(DJANGO_TASK_TEST, send=send)

    assert {(task.queue, task.max_attempts) for task in Task.objects.all()} == {("mail", 5)}


@pytest.mark.parametrize("block", blocks("ini"), ids=lambda block: block.name)
def test_every_unit_can_be_read(block):
    parser = configparser.ConfigParser(interpolation=None)

    parser.read_string(block.source)

    assert parser.sections()


def commands() -> list[str]:
    texts = [document.read_text(encoding="utf-8") for document in DOCUMENTS]
    return sorted({line for text in texts for line in re.findall(r"manage\.py ([^`\n>]+)", text)})


@pytest.mark.parametrize("line", commands())
def test_every_command_line_can_be_parsed(line):
    """Kind of fault: a command or an option that is gone, or never was."""
    name, *words = shlex.split(line.split(" &&")[0])
    # The commands of the demo belong to another project.
    app = get_commands().get(name, "example_project.members")
    command = app if not isinstance(app, str) else load_command_class(app, name)

    if "--help" not in words:
        command.create_parser("manage.py", name).parse_args(words)


def links() -> list[tuple[Path, str]]:
    return [
        (document, link)
        for document in DOCUMENTS
        for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
        if not re.match(r"[a-z]+:", link)
    ]


def target_of(document: Path, link: str) -> Path:
    name = link.partition("#")[0]
    return (document.parent / name).resolve() if name else document


def test_every_link_leads_to_a_file_and_to_a_heading():
    broken = []
    for document, link in links():
        anchor = link.partition("#")[2]
        target = target_of(document, link)
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{document.relative_to(ROOT)}: {link}")

    assert broken == []


def test_every_file_that_a_document_links_to_is_in_the_source_distribution():
    """Kind of fault: the documentation refers to a file that nobody who installed it has."""
    shipped = (ROOT / "MANIFEST.in").read_text().split()

    targets = {target_of(document, link) for document, link in links()}

    assert {target.relative_to(ROOT).parts[0] for target in targets} <= {
        *shipped, "README.md", "LICENSE",
    }  # fmt: skip


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "importlinter"
]
LAYERS = next(one["layers"] for one in LINTER["contracts"] if one["containers"] == ["bgtask"])


def test_the_layers_are_those_that_the_linter_checks():
    """Kind of fault: a module has moved to another layer, and the page shows the old one."""
    line = next(part for part in ARCHITECTURE.split("\n\n") if part.startswith("`apps` →"))

    shown = [set(re.findall(r"`(\w+)`", layer)) for layer in line.split("→")]

    assert shown == [set(re.findall(r"\w+", layer)) for layer in LAYERS]


def test_the_tree_lists_each_module_in_the_order_of_the_layers():
    """Kind of fault: a new module is missing from the page."""
    tree = ARCHITECTURE.partition("bgtask/\n")[2].partition("bgtask_admin/")[0]
    shown = re.findall(r"^  (\w+)(?:\.py|/)", tree, re.MULTILINE)
    depth = {name: n for n, layer in enumerate(LAYERS) for name in re.findall(r"\w+", layer)}

    assert set(shown) == depth.keys()
    assert [depth[name] for name in shown] == sorted(depth.values())


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings, as they are made by most renderers of Markdown."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
