"""A row can make a worker import only what the project allows, and call only a task."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent
from types import SimpleNamespace

import pytest

from bgtask import registry
from bgtask.backend import api
from bgtask.backend.finder import TaskFinder, may_import
from bgtask.models import Task
from bgtask.testing import run_due
from tests.bgtask.backend import jobs
from tests.factories import TaskFactory

FORGED = [
    "os.system",
    "subprocess.run",
    "builtins.eval",
    "antigravity.fly",
    "tests.bgtask.backend.jobs.os.system",
    "tests.bgtask.backend.jobs.signal_handler",
    "tests.bgtask.backend.jobs.executed.append",
    "tests.bgtask.backend.jobs.task",
    "tests.bgtask.backend.jobs.add.func",
    "tests.bgtask.backend.jobs.User",
    "django.tasks.base.Task",
    "tests.bgtask.backend.missing.add",
    ".add",
    "add",
    "..tests.add",
    "tests/../os.system",
]


@pytest.mark.django_db
@pytest.mark.parametrize("name", FORGED)
def test_a_forged_row_is_held_and_nothing_is_called(name):
    row = TaskFactory(task_name=name, task_params='[["touch /tmp/never"], {}]', backend="default")
    before = set(sys.modules)

    assert run_due() == []

    row.refresh_from_db()
    assert (row.status, row.held_for, row.attempts) == ("HELD", "unknown", 0)
    assert not {module for module in set(sys.modules) - before if module != "tests"}


@pytest.mark.django_db
def test_another_path_of_a_task_is_unknown(monkeypatch):
    monkeypatch.setattr(jobs, "renamed", jobs.add, raising=False)

    assert registry.knows("tests.bgtask.backend.jobs.add")
    assert not registry.knows("tests.bgtask.backend.jobs.renamed")


def test_an_object_that_only_looks_like_a_task_is_unknown(monkeypatch):
    name = "tests.bgtask.backend.jobs.fake"
    monkeypatch.setattr(jobs, "fake", SimpleNamespace(module_path=name), raising=False)

    assert not registry.knows(name)


@pytest.mark.parametrize("module", ["tests..os", "tests.a b", "tests.\0", "tests/../os", ""])
def test_text_that_is_no_path_of_a_module_is_not_imported(module):
    assert not may_import(module)


def test_modules_of_apps_and_of_options_may_be_imported(settings):
    assert may_import("tests.bgtask.backend.jobs")
    assert may_import("bgtask.anything")
    assert not may_import("testsuite")
    assert not may_import("json.tool")
    settings.TASKS = {
        "default": {
            "BACKEND": "bgtask.backend.BgtaskBackend",
            "OPTIONS": {"modules": ["json.tool"]},
        },
        "broken": {"BACKEND": "does.not.exist"},
    }
    assert may_import("json.tool")
    assert not may_import("json")


def test_a_module_with_a_getattr_is_not_asked(tmp_path, monkeypatch):
    asked = tmp_path / "asked"
    (tmp_path / "lazy_jobs.py").write_text(
        f"def __getattr__(name):\n    open({str(asked)!r}, 'w').close()\n    raise AttributeError\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    __import__("lazy_jobs")

    assert TaskFinder().find("lazy_jobs.anything") is None
    assert not asked.exists()


def test_a_module_that_cannot_be_imported_is_logged_once(tmp_path, monkeypatch, caplog, settings):
    (tmp_path / "broken_jobs.py").write_text("raise RuntimeError('while importing')\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings.TASKS = {
        "default": {
            "BACKEND": "bgtask.backend.BgtaskBackend",
            "OPTIONS": {"modules": ["broken_jobs"]},
        }
    }
    finder = TaskFinder()

    for name in ("broken_jobs.one", "broken_jobs.two", "broken_jobs.one"):
        assert finder.find(name) is None

    (record,) = caplog.records
    assert "broken_jobs can't be imported" in record.message
    assert record.exc_info


def test_a_module_that_is_not_there_is_not_logged(caplog):
    assert TaskFinder().find("tests.bgtask.backend.missing.add") is None
    assert not caplog.records


def test_a_name_is_not_looked_for_again_at_once(tmp_path, monkeypatch, settings):
    monkeypatch.syspath_prepend(tmp_path)
    settings.TASKS = {
        "default": {
            "BACKEND": "bgtask.backend.BgtaskBackend",
            "OPTIONS": {"modules": ["late_jobs"]},
        }
    }
    finder = TaskFinder()
    assert finder.find("late_jobs.late") is None
    (tmp_path / "late_jobs.py").write_text(
        "from tests.bgtask.backend.jobs import task\n\n@task\ndef late(): pass\n"
    )

    assert finder.find("late_jobs.late") is None
    monkeypatch.setattr("bgtask.backend.finder.RETRY_SECONDS", 0)
    assert TaskFinder().find("late_jobs.late").name == "late_jobs.late"


def test_the_names_of_loaded_tasks_are_known():
    assert "tests.bgtask.backend.jobs.add" in registry.names()


@pytest.mark.django_db
def test_the_arguments_of_a_task_have_their_names():
    jobs.add.enqueue(1, two=2)

    assert Task.objects.get().named_params() == {"one": 1, "two": 2}


@pytest.mark.django_db
def test_a_result_whose_function_is_not_known_here_does_not_exist():
    result = jobs.add.enqueue(1)
    Task.objects.update(task_name="tests.bgtask.backend.jobs.gone")

    with pytest.raises(api.TaskResultDoesNotExist, match=r"jobs\.gone can't be imported here"):
        jobs.add.get_result(result.id)


@pytest.mark.django_db
def test_reading_arguments_imports_nothing():
    """The dashboard shows the arguments of any row."""
    module = "example_project.members.demo.progress"
    sys.modules.pop(module, None)
    row = TaskFactory(task_name=f"{module}.anything")

    row.named_params()

    assert module not in sys.modules


def test_importing_the_backend_imports_no_models():
    """Kind of fault: tasks that a models module imports need models that are not ready."""
    program = dedent(
        """
        import sys
        from django.conf import settings
        settings.configure(TASKS={"default": {"BACKEND": "bgtask.backend.BgtaskBackend"}})
        import bgtask.backend
        print([name for name in sys.modules if name.startswith("bgtask.models")])
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
