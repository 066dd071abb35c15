"""A right for each thing, asked on the server; buttons are absent where it is missing."""

from __future__ import annotations

import pytest
from django.test import Client

from bgtask.models import QueuePause, Task, TaskHold
from bgtask.status import Status
from bgtask_admin.actions.registry import ACTIONS, OFFERED
from bgtask_admin.models import Operation
from tests.bgtask_admin.urls import CONFIRM, LANDING, OPERATIONS, TASKS, preview_of, text
from tests.factories import AttemptFactory, TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db

PAGES = [LANDING, TASKS, OPERATIONS, f"{TASKS}export.csv", f"{LANDING}error/abc/"]


@pytest.mark.parametrize("url", PAGES)
def test_anonymous_users_are_redirected_to_the_login(client, url):
    assert client.get(url).status_code == 302


@pytest.mark.parametrize("url", PAGES)
def test_staff_status_alone_shows_nothing(log_in, url):
    assert log_in().get(url).status_code == 403


@pytest.mark.parametrize("verb", OFFERED)
def test_action_needs_its_own_permission(verb, log_in, operator):
    action = ACTIONS[verb]
    status = next(iter(action.statuses))
    task = TaskFactory(status=status)
    others = {"requeue_task", "cancel_task", "delete_task", "hold_task", "pause_queue",
              "change_task", "monitor"} - {action.permission.removeprefix("bgtask.")}  # fmt: skip
    client = log_in("view_task", *others)
    page = text(client.get(f"{TASKS}{task.pk}/change/"))

    assert (
        client.post(f"{TASKS}{task.pk}/do/{verb}/", {"priority": 1, "queue": "x"}).status_code
        == 403
    )
    assert client.get(f"{CONFIRM}?verb={verb}&id={task.pk}").status_code == 403
    assert f"/do/{verb}/" not in page
    assert f"verb={verb}&" not in page
    assert not Operation.objects.exists()


@pytest.mark.parametrize("verb", OFFERED)
def test_permission_allows_the_action(verb, log_in):
    action = ACTIONS[verb]
    task = TaskFactory(status=sorted(action.statuses)[0])
    client = log_in("view_task", action.permission.removeprefix("bgtask."))

    signed = preview_of(client.get(f"{CONFIRM}?verb={verb}&id={task.pk}"))
    response = client.post(CONFIRM, {"preview": signed, "priority": 1, "queue": "x"})

    assert response.status_code == 302
    assert Operation.objects.get().verb == verb


def test_permission_revoked_since_the_preview_is_missing(operator):
    TaskFactory(status=Status.FAILED)
    user, client = operator("view_task", "requeue_task"), Client()
    client.force_login(user)
    signed = preview_of(client.get(f"{CONFIRM}?verb=requeue&status=FAILED"))

    user.user_permissions.clear()

    assert client.post(CONFIRM, {"preview": signed}).status_code == 403
    assert Task.objects.failed().count() == 1


@pytest.mark.parametrize(("page", "right"), [("hold", "hold_task"), ("pause", "pause_queue")])
def test_holding_needs_its_permission(log_in, page, right):
    assert log_in("view_task").post(f"{LANDING}{page}/", {"name": "x"}).status_code == 403
    assert TaskHold.objects.count() + QueuePause.objects.count() == 0

    assert log_in("view_task", right).post(f"{LANDING}{page}/", {"name": "x"}).status_code == 302
    assert TaskHold.objects.count() + QueuePause.objects.count() == 1


@pytest.mark.parametrize("page", ["release", "resume"])
def test_releasing_needs_its_permission(log_in, page):
    assert log_in("view_task").post(f"{LANDING}{page}/", {"name": "x"}).status_code == 403


def test_rescue_needs_the_requeue_permission(log_in):
    worker = WorkerFactory(silent=True)

    assert log_in("view_task").post(f"{LANDING}worker/{worker.pk}/release/").status_code == 403


def test_continuing_an_operation_of_another_user_needs_its_permission(log_in, admin_user):
    operation = Operation.objects.create(
        key="k", by="x", verb="requeue", filter='{"status": "FAILED"}', matched=1,
        previewed_at="2026-01-01T00:00Z", high_water=10**9,
    )  # fmt: skip

    client = log_in("view_task")

    assert client.post(f"{OPERATIONS}{operation.pk}/step/").status_code == 403
    assert "Continue" not in text(client.get(f"{OPERATIONS}{operation.pk}/change/"))


def test_form_of_another_site_changes_nothing(admin_user):
    task = TaskFactory(status=Status.FAILED)
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)

    assert client.post(f"{TASKS}{task.pk}/do/requeue/").status_code == 403
    assert client.post(f"{LANDING}hold/", {"name": "x"}).status_code == 403
    assert not Operation.objects.exists()


BUTTONS = {
    LANDING: ("Requeue", "Hold task", "Pause", "Return tasks to queue"),
    f"{TASKS}?status=FAILED": ("Requeue", "Selected…", 'name="tick"'),
}


@pytest.mark.parametrize("url", BUTTONS)
def test_view_permission_shows_no_buttons(log_in, admin_client, url):
    TaskFactory(status=Status.READY)
    AttemptFactory(task__error_fingerprint="f" * 32)
    TaskFactory(status=Status.RUNNING, locked_by=WorkerFactory(silent=True))

    everything, only_looking = (
        text(client.get(url)).partition("<main")[2]
        for client in (admin_client, log_in("view_task"))
    )

    for button in BUTTONS[url]:
        assert button in everything
        assert button not in only_looking


def test_index_shows_the_dashboard_only_with_permission(log_in):
    assert LANDING in text(log_in("monitor").get("/admin/"))
    assert LANDING not in text(log_in().get("/admin/"))
