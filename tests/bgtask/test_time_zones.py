"""USE_TZ = False, and databases that keep times in a zone of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from django.db import connection

from bgtask.db.operations import offset_at
from tests.processes import ROOT

STORED = ROOT / "tests/bgtask/test_times_stored.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("use_tz", "zone"),
    [
        pytest.param(False, None, id="USE_TZ = False", marks=pytest.mark.sample),
        pytest.param(True, "Pacific/Marquesas", id="stored 9:30 h west of UTC"),
        pytest.param(True, "Pacific/Chatham", id="stored east of UTC, with summer time"),
    ],
)
def test_times_are_right_in_each_time_zone_setting(use_tz, zone, child_env, tmp_path):
    settings = in_its_own_database(tmp_path) | {"TIME_ZONE": zone}
    env = child_env | {
        "BGTASK_TEST_DATABASE": json.dumps(settings),
        "BGTASK_TEST_USE_TZ": "1" if use_tz else "0",
    }

    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(STORED)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert tests.returncode == 0, tests.stdout + tests.stderr


def in_its_own_database(directory: Path) -> dict[str, object]:
    """Return the settings of this server with a test database that the suite does not use."""
    settings = connection.settings_dict
    name = str(settings["NAME"]) + "_zones"
    if connection.vendor == "sqlite":
        name = str(directory / "zones.sqlite3")
    return settings | {"TEST": settings["TEST"] | {"NAME": name}}


@pytest.mark.parametrize(
    ("instant", "hours"),
    [
        (datetime(2026, 11, 1, 4, 0, tzinfo=UTC), -4),
        (datetime(2026, 11, 1, 5, 59, tzinfo=UTC), -4),
        (datetime(2026, 11, 1, 6, 0, tzinfo=UTC), -5),
        (datetime(2026, 3, 8, 6, 59, tzinfo=UTC), -5),
        (datetime(2026, 3, 8, 7, 0, tzinfo=UTC), -4),
    ],
    ids=str,
)
def test_database_clock_is_right_around_a_change_of_the_clocks(instant, hours):
    assert offset_at(instant, ZoneInfo("America/New_York")) == hours * 3600
