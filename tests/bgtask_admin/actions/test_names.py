"""The names of users that the dashboard stores: a user model of the project may allow any name."""

from __future__ import annotations

from io import StringIO

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command

from bgtask.models import Attempt, QueuePause, TaskHold
from bgtask.status import Status
from bgtask_admin.models import Operation
from tests.bgtask_admin.urls import LANDING, OPERATIONS, TASKS
from tests.factories import TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db

NAMES = {
    "usual": ("ada", "ada"),
    "long": ("x" * 10_000, "x" * 254 + "…"),
    "wide": ("🎉" * 300, "🎉" * 254 + "…"),
    "fits": ("é" * 255, "é" * 255),
    "nul": ("a\x00b", "a\ufffdb"),
    "half a character": ("a\udcffb", "a\\udcffb"),
    "a number": (4_915_112_345, "4915112345"),
    "none": (None, ""),
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_actions_are_logged_for_users_of_any_name(admin_client, monkeypatch, name):
    """Kind of fault: a name that the user model allows, and the log doesn't, is a server error."""
    given, stored = name
    failed = TaskFactory(status=Status.FAILED)
    worker = WorkerFactory(silent=True)
    TaskFactory(status=Status.RUNNING, locked_by=worker)
    monkeypatch.setattr(get_user_model(), "get_username", lambda user: given)

    for place, data in (
        ("hold/", {"name": "shop.send"}),
        ("release/", {"name": "shop.send"}),
        ("hold/", {"name": "shop.send"}),
        ("pause/", {"name": "mail"}),
        ("resume/", {"name": "mail"}),
        ("pause/", {"name": "mail"}),
        (f"worker/{worker.pk}/release/", {}),
    ):
        assert admin_client.post(f"{LANDING}{place}", data).status_code == 302
    assert admin_client.post(f"{TASKS}{failed.pk}/do/requeue/").status_code == 302
    # The header of Django's admin shows the name as it is.
    monkeypatch.undo()
    pages = [admin_client.get(url).status_code for url in (LANDING, OPERATIONS, TASKS)]

    assert pages == [200] * 3
    assert {operation.by for operation in Operation.objects.all()} == {stored}
    assert Operation.objects.count() == 8
    assert (TaskHold.objects.get().held_by, QueuePause.objects.get().paused_by) == (stored,) * 2
    assert stored in Attempt.objects.get().message


@pytest.mark.parametrize("name", ["x" * 10_000, "\udcff" * 300, "ada"], ids=ascii)
def test_the_command_is_logged_for_users_of_any_name(monkeypatch, name):
    monkeypatch.setenv("LOGNAME", name)
    TaskFactory(status=Status.FAILED)

    call_command("bgtask_requeue", "--status=FAILED", stdout=StringIO())

    by = Operation.objects.get().by
    assert by.endswith(" (shell)")
    assert by.startswith(name[:1].encode("utf-8", "backslashreplace").decode())
    assert len(by) <= 255
