"""Test ``python -m tests``: its databases, the tests that it leaves out, its last lines."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import sampling
from tests.__main__ import Result, _parse, _report
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
    assert f"\n2 {sampling.LEFT_OUT}" in output


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["suite/test_suite.py::test_slow"], {"test_slow"}),
        (["-k", "test_slow"], {"test_slow"}),
        (["-m", "thorough"], {"test_thorough"}),
        (["-mslow and not thorough"], {"test_slow", "test_sample"}),
    ],
)
def test_nothing_is_left_out_if_tests_are_named(run, args, expected):
    ran, output = run(*args)

    assert {name for name in ran if "kinds" not in name} == expected
    assert "left out" not in output


@pytest.mark.parametrize(
    ("args", "databases", "samples"),
    [
        ([], ["sqlite", "postgresql"], True),
        (["--require=mariadb"], ["sqlite", "postgresql", "mariadb"], True),
        (["--only=mariadb", "-x"], ["mariadb"], True),
        (["--all"], ["sqlite", "postgresql", "mariadb"], False),
        (["--all", "--only=sqlite"], ["sqlite"], False),
    ],
)
def test_mariadb_and_every_slow_test_run_only_if_asked_for(monkeypatch, args, databases, samples):
    monkeypatch.setattr(sys, "argv", ["tests", *args])

    options, pytest_args = _parse()

    assert options.only == databases
    assert (sampling.__name__ in pytest_args) is samples


def test_failures_of_each_database_are_repeated_at_the_end(capsys):
    left_out = f"7 {sampling.LEFT_OUT}"
    failure = "FAILED tests/test_a.py::test_b - AssertionError"

    _report(
        [
            Result("sqlite", "passed", "3 passed in 1.00s", left_out=left_out),
            Result("postgresql", "failed", "1 failed in 1.00s", (failure,), left_out),
        ]
    )

    said = capsys.readouterr().out
    assert said.startswith(f"\nFailed on postgresql\n  {failure}\n")
    assert "  sqlite      passed   3 passed in 1.00s\n" in said
    assert said.endswith(f"\n{left_out}\n")
    assert said.count(left_out) == 1
