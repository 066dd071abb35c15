"""Test that the benchmarks run. Their figures are judged by people."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from django.db import connection

from tests.processes import ROOT

ROWS = ("drain", "enqueue", "pickup")
DATABASES = {"sqlite": "sqlite", "postgresql": "postgresql", "mysql": "mariadb"}


@pytest.mark.slow
def test_benchmarks_write_the_figures_of_each_row(tmp_path):
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--repeat=1"]
    command += [f"--database={DATABASES[connection.vendor]}", f"--only={','.join(ROWS)}"]

    subprocess.run([*command, f"--json={figures}"], cwd=ROOT, check=True, timeout=300)

    measured = json.loads(figures.read_text())["figures"]
    assert len({figure["row"] for figure in measured}) == len(ROWS)
    assert all(figure["median"] > 0 for figure in measured)


@pytest.mark.vendor("sqlite")
@pytest.mark.slow
def test_footprint_lists_the_functions_of_each_stage():
    command = [sys.executable, "-m", "tests.benchmarks.footprint", "--list"]

    printed = subprocess.run(command, cwd=ROOT, check=True, timeout=120, capture_output=True).stdout

    for line in (b"enqueue: ", b"worker: ", b"page of the task: ", b"list of tasks: "):
        assert line in printed
    assert b"bgtask/lifecycle/claim.py: " in printed
