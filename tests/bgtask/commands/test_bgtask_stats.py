from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from django.core.management import CommandError, call_command

from bgtask.db import DatabaseNow
from bgtask.models import Task
from tests.factories import PauseFactory, TaskFactory, TaskStatsFactory, WorkerFactory

pytestmark = pytest.mark.django_db

SCHEMA = Path(__file__).parents[3] / "docs" / "monitoring" / "stats.schema.json"


def test_stats_command_prints_a_readable_table(capsys) -> None:
    TaskFactory.create_batch(2, queue="mail", run_at=DatabaseNow(-400))
    TaskStatsFactory(queue="mail", succeeded=75, failed=25)
    PauseFactory(queue="reports")
    WorkerFactory(threads=4)

    call_command("bgtask_stats")

    verdict, _, headings, mail, reports, _, failed, workers = capsys.readouterr().out.splitlines()
    assert verdict.startswith("CRITICAL: ")
    assert headings.split() == [
        "queue", "status", "ready", "oldest", "scheduled", "running", "held", "failed",
        "attempts", "per", "minute",
    ]  # fmt: skip
    assert mail.split()[:5] == ["mail", "fail", "2", "6", "m"]
    assert "25 (25%)" in mail
    assert reports.split()[:4] == ["reports", "paused", "0", "-"]
    assert mail.index("fail") == reports.index("paused") == headings.index("status")
    assert failed == "failed tasks: 0"
    assert workers.startswith("workers: 1 alive with 4 threads, 0 tasks running")


def test_stats_command_reports_that_there_are_no_tasks(capsys) -> None:
    call_command("bgtask_stats")

    assert capsys.readouterr().out.startswith("OK: nothing is behind")


def test_stats_command_prints_json_of_the_documented_shape(capsys) -> None:
    TaskFactory(run_at=DatabaseNow(-400))

    call_command("bgtask_stats", "--json")

    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    assert document["status"] == "fail"
    assert document["totals"]["ready"] == 1


def test_stats_command_reports_an_unreadable_database(monkeypatch) -> None:
    monkeypatch.setattr(Task._meta, "db_table", "not_there")

    with pytest.raises(CommandError, match="The database cannot be read"):
        call_command("bgtask_stats")
