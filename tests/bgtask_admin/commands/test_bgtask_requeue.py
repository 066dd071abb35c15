from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from bgtask.models import Task
from bgtask.status import Status
from bgtask_admin.models import Operation
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db


def requeue(*args: str) -> str:
    out = StringIO()
    call_command("bgtask_requeue", *args, stdout=out)
    return out.getvalue()


def test_requeues_what_matches_all_of_it():
    wanted = TaskFactory(status=Status.FAILED, queue="mail", error_class="Refused", attempts=5)
    TaskFactory(status=Status.FAILED, queue="mail")
    TaskFactory(status=Status.FAILED, error_class="Refused")

    said = requeue("--error-class=Refused", "--queue=mail", "--attempts=3", "--reset-attempts")

    assert Task.objects.ready().get() == wanted
    assert Task.objects.ready().get().attempts == 0
    assert "1 requeued" in said


def test_a_dry_run_only_says_what_it_would_do():
    TaskFactory(status=Status.FAILED, queue="mail")

    said = requeue("--queue=mail", "--dry-run")

    assert "1 tasks: tasks of any status, in queue mail" in said
    assert Task.objects.failed().count() == 1
    assert not Operation.objects.exists()


def test_spreads_them():
    TaskFactory(status=Status.FAILED)

    requeue("--status=FAILED", "--spread=10")

    assert Task.objects.scheduled().count() == 1


def test_is_in_the_log():
    TaskFactory(status=Status.FAILED)

    requeue("--status=FAILED")

    assert Operation.objects.get().by.endswith("(shell)")


def test_a_user_without_a_name_is_in_the_log_by_its_number(monkeypatch):
    TaskFactory(status=Status.FAILED)
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 987_654_321)

    requeue("--status=FAILED")

    assert Operation.objects.get().by == "uid 987654321 (shell)"


def test_searches_errors_within_a_window():
    TaskFactory(status=Status.FAILED, last_error="connection refused")

    assert "1 requeued" in requeue("--error=refused", "--since=1h")


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ([], "every task"),
        (["--queue="], "--queue says nothing"),
        (["--queue= ", "--status=FAILED"], "--queue says nothing"),
        (["--id=", "--status=FAILED"], "--id says nothing"),
        (["--error-class=", "--status=FAILED"], "--error-class says nothing"),
        (["--attempts=", "--status=FAILED"], "--attempts says nothing"),
        (["--since=yesterday"], "yesterday"),
        (["--error=refused"], "window"),
        (["--attempts=many"], "whole number"),
        (["--queue=mail", "--spread=-1"], "--spread"),
    ],
)
def test_refuses_what_would_mean_everything_or_nothing(args, why):
    TaskFactory(status=Status.FAILED)

    with pytest.raises(CommandError, match=why):
        requeue(*args)

    assert Task.objects.failed().count() == 1
