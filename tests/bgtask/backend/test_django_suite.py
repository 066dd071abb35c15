"""
Run Django's own tests of tasks with bgtask as the backend.

They are not in Django's wheel. pip fetches the sdist of the installed version.
``BGTASK_TEST_DJANGO_SDISTS`` names a directory that may have it already.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tarfile
import unittest
from contextlib import contextmanager
from pathlib import Path

import django
import pytest
from django import test
from django.db import connection

from tests.helpers import is_required

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.slow,
    pytest.mark.sample,
    pytest.mark.skipif(django.VERSION < (6, 0), reason="Django has tasks since 6.0"),
]

# Tests that say nothing about a backend that stores tasks, by the end of their names, with why.
NEVER_APPLY = {
    "CustomBackendTestCase": "is about a backend that the test defines",
    "CustomTaskTestCase": "is about a backend that the test defines",
    "DummyBackendTestCase.test_refresh_result": "changes a result in the memory of DummyBackend",
    "DummyBackendTestCase.test_refresh_result_async": "the same",
    "ImmediateBackendTestCase.test_cannot_get_result": "bgtask can return results",
    "ImmediateBackendTestCase.test_cannot_refresh_result": "bgtask can return results",
    "ImmediateBackendTestCase.test_cannot_pass_run_after": "bgtask can defer tasks",
}
# This test calls refresh() in a coroutine. Django's ORM refuses this unless it is told not to.
# Then the coroutine's thread has a connection of its own, which sees no open transaction.
NEEDS_UNSAFE_ASYNC = "TaskTestCase.test_refresh_result"


@pytest.fixture(scope="session")
def suite_directory(tmp_path_factory):
    """Return a directory with the package ``tasks``: Django's tests of tasks."""
    directory = tmp_path_factory.mktemp("django")
    name = f"django-{django.get_version()}"
    archive = Path(os.environ.get("BGTASK_TEST_DJANGO_SDISTS", directory)) / f"{name}.tar.gz"
    if not archive.exists():
        _fetch(archive.parent)
    with tarfile.open(archive) as sdist:
        prefix = f"{name}/tests/"
        for member in sdist.getmembers():
            if member.name.startswith(f"{prefix}tasks/"):
                member.name = member.name.removeprefix(prefix)
                sdist.extract(member, directory, filter="data")
    return directory


def _fetch(directory):
    requirement = f"Django=={django.get_version()}"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", ":all:", "--no-deps",
         "--dest", directory, requirement],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        refuse = pytest.fail if is_required("django-tests") else pytest.skip
        refuse(f"{requirement} can't be downloaded: {done.stderr[-500:]}")


@contextmanager
def _substituted(monkeypatch, suite_directory, test_case):
    """Let Django's tests import bgtask's backends and use this kind of test case."""
    from tests.bgtask.backend.substitutes import Draining, Recording

    with monkeypatch.context() as patch:
        patch.syspath_prepend(suite_directory)
        patch.setattr("django.tasks.backends.dummy.DummyBackend", Recording)
        patch.setattr("django.tasks.backends.immediate.ImmediateBackend", Draining)
        for name in ("SimpleTestCase", "TransactionTestCase"):
            patch.setattr(test, name, test_case)
        yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "tasks"]:
        del sys.modules[name]


def _tests(suite):
    for one in suite:
        yield from _tests(one) if isinstance(one, unittest.TestSuite) else [one]


def _load(suite_directory):
    names = sorted(path.stem for path in (suite_directory / "tasks").glob("test_*.py"))
    modules = [importlib.import_module(f"tasks.{name}") for name in names]
    loader = unittest.TestLoader()
    found = [one for module in modules for one in _tests(loader.loadTestsFromModule(module))]
    for one in found:
        type(one).available_apps = None  # Some classes want no app, and so no bgtask.
    return found


def _short_name(one):
    return ".".join(one.id().split(".")[-2:])


def _applies(one):
    name = _short_name(one)
    return name not in NEVER_APPLY and name.partition(".")[0] not in NEVER_APPLY


def _run(tests):
    """Run the tests and return the errors by name."""
    result = unittest.TestResult()
    unittest.TestSuite(tests).run(result)
    assert not result.skipped
    return {str(one): error for one, error in [*result.failures, *result.errors]}, result.testsRun


def test_tasks_pass_djangos_own_tests(suite_directory, monkeypatch):
    class Case(test.TestCase):
        databases = frozenset({"default"})

    with _substituted(monkeypatch, suite_directory, Case):
        tests = [one for one in _load(suite_directory) if _applies(one)]
        errors, number = _run([one for one in tests if _short_name(one) != NEEDS_UNSAFE_ASYNC])

    assert not errors, "\n".join(f"{name}\n{error}" for name, error in errors.items())
    assert number >= (70 if django.VERSION >= (6, 1) else 65)


@pytest.mark.vendor("sqlite")
def test_the_test_that_refreshes_in_a_coroutine_passes_where_django_lets_it(
    suite_directory, monkeypatch
):
    class Case(test.TransactionTestCase):
        databases = frozenset({"default"})
        available_apps = None

    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    with _substituted(monkeypatch, suite_directory, Case):
        tests = [one for one in _load(suite_directory) if _short_name(one) == NEEDS_UNSAFE_ASYNC]
        errors, number = _run(tests)

    assert not errors, errors
    assert number == 1
    assert connection.vendor == "sqlite"
