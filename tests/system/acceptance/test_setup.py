"""A worker whose database is not what it should be."""

from __future__ import annotations

import json

import pytest
from django.db import connection

pytestmark = pytest.mark.acceptance


@pytest.fixture
def empty_database(child_env, transactional_db, tmp_path):
    """Create a database without tables, and yield its settings as JSON."""
    settings = json.loads(child_env["BGTASK_TEST_DATABASE"])
    if connection.vendor == "sqlite":
        yield json.dumps({**settings, "NAME": str(tmp_path / "empty.sqlite3")})
        return
    name = connection.ops.quote_name(f"{settings['NAME']}_empty")
    with connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {name}")
        cursor.execute(f"CREATE DATABASE {name}")
    yield json.dumps({**settings, "NAME": f"{settings['NAME']}_empty"})
    with connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {name}")


@pytest.mark.parametrize(
    "arguments", [pytest.param([], marks=pytest.mark.sample), ["--processes=2"], ["--drain"]]
)
def test_missing_tables_are_reported_in_one_line(worker, empty_database, arguments):
    child = worker(*arguments, env={"BGTASK_TEST_DATABASE": empty_database})

    assert child.wait() == 1
    (line,) = child.output().splitlines()
    assert "run `migrate` first" in line
