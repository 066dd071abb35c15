"""Test what ``import bgtask`` offers, and what it doesn't import."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

import bgtask
from bgtask import exceptions
from tests.processes import ROOT


def python(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_public_names_exist_and_are_sorted():
    assert bgtask.__all__ == sorted(bgtask.__all__)
    for name in bgtask.__all__:
        assert getattr(bgtask, name) is not None
    assert {"background", "BackgroundFunction", "current_task", "Retry", "GiveUp"} < {
        *bgtask.__all__
    }


REFERENCE = (ROOT / "docs" / "reference.md").read_text()
LISTED = {
    module: re.findall(r"^- `(\w+)`", text, re.MULTILINE)
    for module, text in re.findall(r"^## `([\w.]+)`$(.*?)(?=^## |\Z)", REFERENCE, re.M | re.S)
}


def test_the_reference_has_every_public_module():
    assert {"bgtask", "bgtask.models", "bgtask.signals", "bgtask_admin.admin"} < LISTED.keys()


@pytest.mark.parametrize("module", LISTED)
def test_reference_lists_all_public_names(module):
    """Kind of fault: a name that users rely on goes, or comes, without a word in the docs."""
    if find_spec(module.partition(".")[0]) is None:
        pytest.skip("The dashboard is not installed.")
    if module == "bgtask.backend" and not (find_spec("django.tasks") or find_spec("django_tasks")):
        pytest.skip("Django 5.2 has no tasks without the package django-tasks.")
    public = import_module(module)

    assert sorted(LISTED[module]) == sorted(public.__all__)
    assert all(hasattr(public, name) for name in public.__all__)


def test_every_exception_is_public_and_caught_by_the_base_class():
    for name, value in vars(exceptions).items():
        if isinstance(value, type) and issubclass(value, Exception):
            assert name in bgtask.__all__
            assert issubclass(value, bgtask.BgtaskError)


def test_background_can_be_used_before_django_is_set_up():
    child = python(
        "-c",
        "import sys, bgtask\n"
        "from django.apps import apps\n"
        "@bgtask.background(name='own', schedule=60)\n"
        "def notify_user(user_id): ...\n"
        "assert not apps.ready\n"
        "assert 'bgtask.models' not in sys.modules\n"
        "print(notify_user.now(5), bgtask.current_task())\n",
    )

    assert (child.returncode, child.stdout) == (0, "None None\n"), child.stderr


def test_core_needs_only_django():
    """Kind of fault: the core imports bgtask_admin, or what only bgtask_admin needs."""
    child = python(
        "-c",
        "import sys\n"
        "from django.conf import settings\n"
        "settings.configure(INSTALLED_APPS=['bgtask'])\n"
        "import django; django.setup()\n"
        "import bgtask.testing, bgtask.worker.runner\n"
        "from django.core.management import load_command_class as load\n"
        "load('bgtask', 'bgtask_worker'), load('bgtask', 'bgtask_prune')\n"
        "print(*{name.split('.')[0] for name in sys.modules}, sep='\\n')\n",
    )

    assert child.returncode == 0, child.stderr
    assert "django" in child.stdout.split()
    assert not {"bgtask_admin", "django_filters", "django_tables2", "psycopg"} & {
        *child.stdout.split()
    }


def test_outside_a_task_there_is_no_current_task():
    assert bgtask.current_task() is None


@pytest.mark.slow
@pytest.mark.vendor("sqlite")  # Once is enough.
@pytest.mark.skipif(find_spec("mypy") is None, reason="no mypy here")
def test_type_checkers_know_the_parameters_of_a_background_function(tmp_path):
    child = python("-m", "mypy", f"--cache-dir={tmp_path}", "tests/typing/api.py", timeout=300)

    assert child.returncode == 0, child.stdout + child.stderr
