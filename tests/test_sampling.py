"""``python -m tests`` leaves out most slow tests, says so, and obeys a person who names some."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.processes import ROOT

SUITE = """
import pytest

def test_fast(): pass

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.slow
@pytest.mark.sample
def test_sample(): pass

@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("sample", marks=pytest.mark.sample), "other"])
def test_kinds(kind): pass

@pytest.mark.slow
@pytest.mark.thorough
def test_thorough(): pass
"""
SETTINGS = """
[pytest]
addopts = --strict-markers -p no:cacheprovider -m "not thorough"
testpaths = suite
markers =
    slow
    sample
    thorough
"""


@pytest.fixture
def run(tmp_path):
    """Run pytest with the plugin; return the names of the tests that ran, and the output."""
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "test_suite.py").write_text(SUITE)

    def run(*args: str) -> tuple[set[str], str]:
        output = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "tests.sampling", "-rA", *args],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        ).stdout
        lines = [line for line in output.splitlines() if line.startswith("PASSED ")]
        return {line.partition("::")[2] for line in lines}, output

    return run


def test_plain_run_takes_fast_tests_and_the_sample(run):
    ran, output = run()

    assert ran == {"test_fast", "test_sample", "test_kinds[sample]"}
    # The thorough test isn't counted: --all doesn't run it either.
    assert "\n2 tests of real processes, faults and browsers were left out: --all" in output


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["suite/test_suite.py::test_slow"], {"test_slow"}),
        (["-k", "test_slow"], {"test_slow"}),
        (["-m", "thorough"], {"test_thorough"}),
        (["-mslow and not thorough"], {"test_slow", "test_sample"}),
    ],
)
def test_nothing_is_left_out_if_a_person_says_what_to_run(run, args, expected):
    ran, output = run(*args)

    assert {name for name in ran if "kinds" not in name} == expected
    assert "left out" not in output
