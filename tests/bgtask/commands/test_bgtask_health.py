from __future__ import annotations

import json
import re

import pytest
from django.core.management import call_command

from bgtask.db import DatabaseNow
from bgtask.status import Status
from tests.factories import TaskFactory, TaskStatsFactory, WorkerFactory


@pytest.fixture
def check(capsys):
    """Run the command; return its exit code and its line."""

    def run(*args: str) -> tuple[int, str]:
        code = 0
        try:
            call_command("bgtask_health", *args)
        except SystemExit as ending:
            code = int(ending.code or 0)
        return code, capsys.readouterr().out

    return run


def behind(age: float, queue: str = "mail") -> None:
    TaskFactory(queue=queue, run_at=DatabaseNow(-age))
    WorkerFactory()


@pytest.mark.django_db
class TestVerdict:
    @pytest.mark.parametrize(
        ("age", "code", "word"), [(5, 0, "OK"), (100, 1, "WARNING"), (400, 2, "CRITICAL")]
    )
    def test_verdict_sets_the_exit_code_and_the_first_words(self, check, age, code, word) -> None:
        behind(age)

        returned, line = check()

        assert returned == code
        assert line.startswith(f"BGTASK {word} - ")

    def test_verdict_is_one_line_of_words_and_figures(self, check) -> None:
        behind(400)
        TaskStatsFactory(queue="mail", succeeded=75, failed=25)

        _, line = check()

        assert line.count("\n") == 1
        words, figures = line.strip().split(" | ")
        assert re.search(r"mail is behind: oldest task waiting 6 m \d+ s \(limit 5 m\)", words)
        assert re.fullmatch(
            r"mail_age=4\d\d\.\d{3}s;60;300;0 mail_ready=1;;;0 mail_failed=25\.00%;5;20;0;100 "
            r"failed_tasks=0;;;0 workers=1;;;0 stuck=0;0;;0",
            figures,
        )

    def test_verdict_can_be_limited_to_some_queues(self, check) -> None:
        behind(400)
        TaskFactory(queue="reports", run_at=DatabaseNow(-5))

        code, line = check("--queue=reports")

        assert code == 0
        assert "mail" not in line

    def test_verdict_uses_the_given_ages(self, check) -> None:
        behind(100)

        assert check("--warn-age=500")[0] == 0
        assert check("--warn-age=20", "--crit-age=90")[0] == 2
        assert check("--crit-age=30")[0] == 2
        assert check("--warn-age=30")[0] == 1

    def test_queue_without_thresholds_is_judged_only_if_it_is_named(self, check, settings) -> None:
        settings.BGTASK = {"THRESHOLDS": {"queues": {"mail": {"oldest_ready": None}}}}
        behind(400)

        assert check("--crit-age=300")[0] == 0
        assert check("--crit-age=300", "--queue=mail")[0] == 2
        assert check("--warn-age=300", "--queue=mail")[0] == 1

    def test_empty_queue_passes(self, check) -> None:
        code, line = check()

        assert code == 0
        assert line == (
            "BGTASK OK - nothing is behind; 0 ready, 0 running, 0 workers"
            " | failed_tasks=0;;;0 workers=0;;;0 stuck=0;0;;0\n"
        )

    def test_health_command_writes_nothing_to_the_database(
        self, check, django_assert_max_num_queries
    ) -> None:
        behind(400)
        TaskFactory(status=Status.RUNNING)

        with django_assert_max_num_queries(5) as captured:
            check()

        assert captured.captured_queries
        assert all(query["sql"].lstrip("( ").startswith("SELECT") for query in captured)


@pytest.mark.django_db
class TestUnknown:
    def test_verdict_is_unknown_if_the_ages_are_invalid(self, check) -> None:
        code, line = check("--warn-age=100", "--crit-age=50")

        assert code == 3
        assert line == "BGTASK UNKNOWN - --warn-age 100 is later than --crit-age 50\n"

    def test_verdict_is_unknown_if_the_settings_are_wrong(self, check, settings) -> None:
        settings.BGTASK = {"TRESHOLDS": {}}

        code, line = check()

        assert code == 3
        assert "TRESHOLDS" in line

    @pytest.mark.parametrize(
        "argument", ["--queue=no name", "--warn-age=soon", "--crit-age=nan", "--unheard-of"]
    )
    def test_verdict_is_unknown_if_the_arguments_are_wrong(self, command, argument: str) -> None:
        child = command("bgtask_health", argument)

        assert child.wait() == 3
        assert child.output().startswith("BGTASK UNKNOWN - ")

    def test_verdict_is_unknown_if_the_database_is_away(self, command, tmp_path) -> None:
        nowhere = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "no" / "such")}

        child = command("bgtask_health", env={"BGTASK_TEST_DATABASE": json.dumps(nowhere)})

        assert child.wait() == 3
        assert child.output().startswith("BGTASK UNKNOWN - the database cannot be read (")
        assert child.output().count("\n") == 1
