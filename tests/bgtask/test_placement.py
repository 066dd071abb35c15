"""Test that functions which a worker could not import are refused with the remedy."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest

from bgtask import InvalidFunction, background
from tests.processes import ROOT

TYPED = """
from bgtask import background
def greet(): pass

try: print(background(greet))
except TypeError as error: print(error)

"""


def test_a_function_of_the_file_that_is_run_is_refused_with_what_to_do(tmp_path):
    result = _run_file(tmp_path, "@background\ndef greet(): pass")

    assert "InvalidFunction: greet" in result.stderr
    assert "is in the file that is being run (__main__)" in result.stderr
    assert "Move it to a module that workers import" in result.stderr


def test_a_function_of_the_file_that_is_run_is_taken_if_it_has_a_name(tmp_path):
    result = _run_file(tmp_path, "@background(name='own.greet')\ndef greet(): pass")

    assert (result.returncode, result.stderr) == (0, "")


def test_a_function_of_a_module_run_with_m_is_refused_with_its_name_in_workers(tmp_path):
    result = _run_file(tmp_path, "@background\ndef greet(): pass", as_module=True)

    assert "is called __main__ here and script in a worker" in result.stderr
    assert "and import it in script" in result.stderr


@pytest.mark.parametrize("way", [["-c", TYPED], ["-i", "python"]], ids=["command", "interactive"])
def test_a_function_typed_into_the_shell_is_refused_with_what_to_do(way):
    result = subprocess.run(
        [sys.executable, "-m", "django", "shell", *way],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONPATH": str(ROOT)},
        input=TYPED,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert "was typed into a shell" in result.stdout
    assert "and import it here" in result.stdout


def test_a_function_of_a_module_that_no_import_finds_is_refused():
    module = types.ModuleType("made_by_hand")
    sys.modules[module.__name__] = module
    try:
        code = compile("@background\ndef f(): pass", __file__, "exec")
        with pytest.raises(InvalidFunction, match="loaded without an import"):
            exec(code, module.__dict__ | {"background": background})  # noqa: S102
    finally:
        del sys.modules[module.__name__]


def _run_file(directory, source, *, as_module=False):
    (directory / "script.py").write_text(f"from bgtask import background\n{source}\n")
    return subprocess.run(
        [sys.executable, *(["-m", "script"] if as_module else ["script.py"])],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
