from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection

from bgtask.models import Task
from bgtask.status import Status
from bgtask_admin.actions import run
from bgtask_admin.models import Operation
from tests.bgtask_admin.refusing import refused
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db


def requeue(*args: str) -> str:
    out = StringIO()
    call_command("bgtask_requeue", *args, stdout=out)
    return out.getvalue()


def test_requeue_command_combines_all_filters():
    wanted = TaskFactory(status=Status.FAILED, queue="mail", error_class="Refused", attempts=5)
    TaskFactory(status=Status.FAILED, queue="mail")
    TaskFactory(status=Status.FAILED, error_class="Refused")

    said = requeue("--error-class=Refused", "--queue=mail", "--attempts=3", "--reset-attempts")

    assert Task.objects.ready().get() == wanted
    assert Task.objects.ready().get().attempts == 0
    assert "1 task requeued." in said


def test_dry_run_changes_nothing():
    TaskFactory(status=Status.FAILED, queue="mail")

    said = requeue("--queue=mail", "--dry-run")

    assert said.startswith("1 task: Failed, Cancelled · queue mail")
    assert Task.objects.failed().count() == 1
    assert not Operation.objects.exists()


def test_requeue_command_can_spread_tasks_over_time():
    TaskFactory(status=Status.FAILED)

    requeue("--status=FAILED", "--spread=10")

    assert Task.objects.scheduled().count() == 1


def test_requeue_command_writes_to_the_log():
    TaskFactory(status=Status.FAILED)

    requeue("--status=FAILED")

    assert Operation.objects.get().by.endswith("(shell)")


def test_operating_system_user_without_a_name_is_logged_by_number(monkeypatch):
    TaskFactory(status=Status.FAILED)
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 987_654_321)

    requeue("--status=FAILED")

    assert Operation.objects.get().by == "uid 987654321 (shell)"


def test_requeue_command_searches_errors_within_a_window():
    TaskFactory(status=Status.FAILED, last_error="connection refused")

    assert "1 task requeued." in requeue("--error=refused", "--since=1h")


def test_requeue_command_without_matches_logs_nothing():
    TaskFactory(status=Status.FAILED)

    said = requeue("--queue=nope")

    assert said == "No task matches: Failed, Cancelled · queue nope.\n"
    assert not Operation.objects.exists()


@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["for real", "dry run"])
def test_an_id_that_no_task_has_is_an_error(more):
    with pytest.raises(
        CommandError, match=r"^No task has the id 998, 999: it may have been pruned"
    ):
        requeue("--id=998,999", *more)

    assert not Operation.objects.exists()


def test_requeue_command_requeues_existing_tasks_and_names_missing_ids():
    task = TaskFactory(status=Status.FAILED)

    with pytest.raises(CommandError, match="No task has the id 999"):
        requeue(f"--id={task.pk},999")

    assert Task.objects.ready().get() == task


def test_task_excluded_by_another_filter_is_not_missing():
    task = TaskFactory(status=Status.FAILED)

    assert requeue(f"--id={task.pk}", "--queue=mail").startswith("No task matches: ")


def test_a_chosen_task_that_has_not_finished_is_skipped():
    task = TaskFactory(status=Status.READY)

    assert "0 tasks requeued. 1 task skipped: already ready." in requeue(f"--id={task.pk}")


def test_requeue_command_accepts_a_status_in_lower_case():
    TaskFactory(status=Status.FAILED)

    assert "1 task requeued." in requeue("--status=failed")


def test_invalid_command_line_exits_with_status_2_and_one_line(command):
    for arguments, why in (
        (["--colour=red"], "unrecognized arguments: --colour=red"),
        (["--status=READY"], "argument --status: invalid choice: 'READY' (choose from "),
        (["--spread=soon"], "argument --spread: invalid int value: 'soon'"),
    ):
        ended = command("bgtask_requeue", *arguments)

        assert ended.wait() == 2
        (line,) = ended.output().splitlines()
        assert f" bgtask_requeue: error: {why}" in line
        assert "Status." not in line


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ([], "every task"),
        ([], "--status=FAILED"),
        (["17"], "--id=17"),
        (["17", "18"], "--id=17,18"),
        (["--queue=mail", "--queue=post"], "--queue: said twice"),
        (["--id=1", "--id=2"], "--id: said twice"),
        (["--queue="], "--queue says nothing"),
        (["--queue= ", "--status=FAILED"], "--queue says nothing"),
        (["--id=", "--status=FAILED"], "--id says nothing"),
        (["--error-class=", "--status=FAILED"], "--error-class says nothing"),
        (["--attempts=", "--status=FAILED"], "--attempts says nothing"),
        (["--since=yesterday"], "yesterday"),
        (["--error=refused"], "--since=24h"),
        (["--error=refused", "--since=1h", "--status=CANCELLED"], "--status=FAILED"),
        (["--attempts=many"], "whole number"),
        (["--queue=mail", "--spread=-1"], "^--spread: Ensure this value is greater"),
    ],
)
def test_requeue_command_refuses_filters_that_match_all_or_no_tasks(args, why):
    TaskFactory(status=Status.FAILED)

    with pytest.raises(CommandError, match=why):
        requeue(*args)

    assert Task.objects.failed().count() == 1


@pytest.mark.django_db(transaction=True)
def test_refusal_by_the_database_is_reported_in_one_line(monkeypatch):
    """Kind of fault: a refusal during the work is a traceback that hides the progress."""
    monkeypatch.setattr(run, "CHUNK", 2)
    TaskFactory.create_batch(2, status=Status.FAILED)
    TaskFactory(status=Status.FAILED, priority=1)
    operation = Operation.objects.order_by("-pk")

    with (
        refused(Task, "status", where="NEW.priority = 1"),
        pytest.raises(CommandError, match=r"\AThe database refused: .*refused.*\Z") as caught,
    ):
        requeue("--status=FAILED")

    assert "\n" not in str(caught.value)
    assert "2 were requeued" in str(caught.value)
    assert f"operation {operation.get().pk} " in str(caught.value)
    assert Task.objects.ready().count() == 2
    requeue("--status=FAILED")
    assert not Task.objects.failed().exists()


def test_unreadable_database_is_reported_in_one_line():
    """Kind of fault: a refusal before the work is shown as a traceback."""

    def refuse(*args):
        raise OperationalError("no\nroute")

    with (
        connection.execute_wrapper(refuse),
        pytest.raises(CommandError, match=r"\AThe database refused: no route\Z"),
    ):
        requeue("--status=FAILED")
