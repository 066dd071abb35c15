"""Test that the server checks each permission, and that pages show only what it allows."""

from __future__ import annotations

import pytest
from django.contrib.admin import site
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from bgtask.models import QueuePause, Task, TaskHold
from bgtask.status import Status
from bgtask_admin.actions.registry import ACTIONS, OFFERED
from bgtask_admin.models import Operation
from tests.bgtask.schedules.conftest import make
from tests.bgtask_admin.urls import CONFIRM, LANDING, OPERATIONS, TASKS, preview_of, text
from tests.factories import AttemptFactory, TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db


def _pages() -> dict[str, list[str]]:
    """Return each page of the dashboard with the names of its parameters."""
    return {
        pattern.name: list(pattern.pattern.converters) or list(pattern.pattern.regex.groupindex)
        for part in site.get_urls()
        if "bgtask" in str(part.pattern)
        for pattern in getattr(part, "url_patterns", ())
    }


PAGES = _pages()
# These pages change something, so they refuse GET before they look at permissions.
POST_ONLY = {
    "bgtask_admin_release", "bgtask_admin_resume", "bgtask_admin_release_worker",
    "bgtask_admin_verb", "bgtask_admin_operation_step", "bgtask_admin_schedule_resume",
    "bgtask_admin_schedule_run", "bgtask_admin_schedule_restore", "bgtask_admin_schedule_delete",
}  # fmt: skip
# These pages don't show tasks, so that other permissions than view_task open them.
WITHOUT_TASKS = {
    "bgtask_admin_queuehealth_changelist", "bgtask_admin_queues", "bgtask_admin_hold",
    "bgtask_admin_release", "bgtask_admin_pause", "bgtask_admin_resume",
    "bgtask_admin_release_worker",
}  # fmt: skip
RIGHTS = {
    "view_task", "view_task_arguments", "view_traceback", "requeue_task", "cancel_task",
    "delete_task", "hold_task", "pause_queue", "change_task", "monitor",
}  # fmt: skip


@pytest.fixture
def url_of(db):
    """Return a function: ``url_of("bgtask_task_change")`` is this page's URL for a real row."""
    task = TaskFactory(status=Status.FAILED, error_fingerprint="abc")
    operation = Operation.objects.create(
        key="k", by="x", verb="requeue", filter='{"status": "FAILED"}',
        previewed_at="2026-01-01T00:00Z",
    )  # fmt: skip
    given = {
        "task_id": task.pk,
        "verb": "requeue",
        "form": "csv",
        "operation_id": operation.pk,
        "worker_id": WorkerFactory(silent=True).pk,
        "fingerprint": "abc",
        "schedule_id": make().pk,
    }
    return lambda name: reverse(
        f"admin:{name}", kwargs={parameter: given[parameter] for parameter in PAGES[name]}
    )


def test_the_pages_are_found():
    assert {"bgtask_task_change", "bgtask_admin_confirm"} < {*PAGES}
    assert {*PAGES} > POST_ONLY | WITHOUT_TASKS


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("name", PAGES)
def test_anonymous_users_are_redirected_to_the_login(client, url_of, name, method):
    response = getattr(client, method)(url_of(name))

    assert response.status_code == 302
    assert response["Location"].startswith("/admin/login/")


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("name", PAGES)
def test_staff_status_alone_shows_nothing(log_in, url_of, name, method):
    response = getattr(log_in(), method)(url_of(name))

    assert response.status_code == (405 if method == "get" and name in POST_ONLY else 403)


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("name", sorted({*PAGES} - WITHOUT_TASKS))
def test_no_other_permission_opens_a_page_with_tasks(log_in, url_of, name, method):
    """Kind of fault: another check covers for a missing one."""
    response = getattr(log_in(*RIGHTS - {"view_task"}), method)(url_of(name))

    assert response.status_code == (405 if method == "get" and name in POST_ONLY else 403)
    assert Task.objects.failed().count() == 1


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


@pytest.mark.parametrize(
    ("query", "right"),
    [
        ("status=FAILED", "view_task"),
        ("status=FAILED", "requeue_task"),
        ("status=FAILED&argument=a:1", "view_task_arguments"),
        ("status=FAILED&error=refused&since=1h", "view_traceback"),
    ],
)
def test_permission_revoked_since_the_preview_is_missing(operator, query, right):
    TaskFactory(status=Status.FAILED, task_params='[[], {"a": 1}]', last_error="refused")
    user, client = operator(*RIGHTS), Client()
    client.force_login(user)
    signed = preview_of(client.get(f"{CONFIRM}?verb=requeue&{query}"))

    user.user_permissions.remove(Permission.objects.get(codename=right))

    assert client.post(CONFIRM, {"preview": signed}).status_code == 403
    assert Task.objects.failed().count() == 1
    user.user_permissions.add(Permission.objects.get(codename=right))
    assert client.post(CONFIRM, {"preview": signed}).status_code == 302
    assert Task.objects.ready().count() == 1


@pytest.mark.parametrize(
    ("query", "right"),
    [
        ("argument=a:1", "view_task_arguments"),
        ("q=args.a:1", "view_task_arguments"),
        ("status=FAILED&error=refused&since=1h", "view_traceback"),
        ("q=refused", "view_traceback"),
        ("q=error:refused", "view_traceback"),
    ],
)
@pytest.mark.parametrize("page", ["", "export.csv", "export.json", "confirm/"])
def test_nothing_is_counted_or_listed_by_what_the_user_may_not_see(log_in, page, query, right):
    """Kind of fault: a number of rows shows what the rows contain."""
    TaskFactory(status=Status.FAILED, task_params='[[], {"a": 1}]', last_error="refused")
    verb = "verb=requeue&" if page == "confirm/" else ""

    assert log_in(*RIGHTS - {right}).get(f"{TASKS}{page}?{verb}{query}").status_code == 403
    assert log_in(*RIGHTS).get(f"{TASKS}{page}?{verb}{query}").status_code == 200


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
