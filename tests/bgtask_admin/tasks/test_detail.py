from __future__ import annotations

import pytest

from bgtask.db import DatabaseNow
from bgtask.models import Attempt, Task
from bgtask.status import Status
from bgtask_admin.actions import run
from bgtask_admin.tasks.selection import Selection
from tests.bgtask_admin.urls import CONFIRM, TASKS, text, words
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("status", Status)
def test_task_of_every_status_has_a_page(admin_client, status):
    task = TaskFactory(status=status)

    response = admin_client.get(f"{TASKS}{task.pk}/change/")

    assert response.status_code == 200
    assert str(status.label) in text(response)


def test_task_page_shows_a_timeline_with_durations(admin_client):
    task = TaskFactory(
        status=Status.FAILED, enqueued_at=DatabaseNow(-100), finished_at=DatabaseNow(-10)
    )
    Attempt.objects.create(
        task=task,
        token=1,
        number=1,
        worker="web-1:4121",
        started_at=DatabaseNow(-40),
        finished_at=DatabaseNow(-10),
        outcome="failed",
        error_class="shop.Refused",
        message="no luck",
        traceback='  File "/shop.py", line 7, in send\nshop.Refused: no luck',
    )

    page = text(admin_client.get(f"{TASKS}{task.pk}/change/"))

    assert "Attempt 1 started" in page
    assert "+ 30 s" in page
    assert "+ 1 m" in page
    assert "/shop.py" in page


def test_deleted_task_is_not_found(admin_client):
    assert admin_client.get(f"{TASKS}4711/change/").status_code == 404
    assert admin_client.get(f"{TASKS}x/change/").status_code == 404


def test_task_page_shows_who_changed_the_task(admin_client, admin_user):
    task = TaskFactory(status=Status.FAILED)
    run.do("requeue", Selection.parse({"id": str(task.pk)}), user=admin_user)

    page = text(admin_client.get(f"{TASKS}{task.pk}/change/"))

    assert "<strong>admin</strong> Requeue." in page


def test_lists_no_action_that_only_may_have_changed_it(admin_client, admin_user):
    """Kind of fault: an audit that guesses."""
    task, *_ = TaskFactory.create_batch(101, status=Status.FAILED)
    run.do("requeue", Selection.parse({"status": "FAILED"}), user=admin_user)

    page = words(admin_client.get(f"{TASKS}{task.pk}/change/"))

    assert "No manual actions on this task alone." in page
    assert "are listed only in the operations log." in page
    assert "may include this task" not in page


def test_an_action_of_a_command_is_said_to_be_in_the_operations_log(admin_client):
    task = TaskFactory(status=Status.FAILED)
    run.do("requeue", Selection.parse({"id": str(task.pk)}), by="root@host")

    page = words(admin_client.get(f"{TASKS}{task.pk}/change/"))

    assert "are listed only in the operations log." in page


def test_an_action_that_began_after_the_task_finished_is_not_mentioned(admin_client, admin_user):
    """Kind of fault: an audit that names what can't have changed the task."""
    TaskFactory.create_batch(101, status=Status.READY)
    task = TaskFactory(status=Status.FAILED, finished_at=DatabaseNow(-3600))
    run.do("priority", Selection.parse({"status": "READY"}), {"priority": 5}, user=admin_user)

    page = words(admin_client.get(f"{TASKS}{task.pk}/change/"))

    assert "No manual actions." in page
    assert "operations log." not in page


def test_a_successful_task_runs_again_only_after_a_confirmation(admin_client):
    """Kind of fault: one slip of the mouse charges a card twice."""
    task = TaskFactory(status=Status.SUCCESSFUL)

    page = text(admin_client.get(f"{TASKS}{task.pk}/change/"))
    answer = admin_client.post(f"{TASKS}{task.pk}/do/requeue/")  # From a page loaded before.

    assert "/do/requeue/" not in page
    assert "bg-primary" not in page
    assert f"confirm/?verb=requeue&amp;id={task.pk}&amp;next" in page
    assert ">Run again…</a>" in page
    assert answer.url.startswith(f"{CONFIRM}?verb=requeue&id={task.pk}&")
    assert "It will do its work a second time." in words(admin_client.get(answer.url))
    assert Task.objects.get().status == Status.SUCCESSFUL


def test_arguments_are_shown_only_with_permission(admin_client, log_in):
    task = TaskFactory(
        status=Status.SUCCESSFUL, task_params='[[], {"customer": 4711}]', return_value='"r4711"'
    )
    url = f"{TASKS}{task.pk}/change/"

    assert "4711" in text(admin_client.get(url))
    assert "4711" not in text(log_in("view_task").get(url))


@pytest.mark.parametrize(
    ("verb", "before", "after"),
    [
        ("requeue", Status.FAILED, Status.READY),
        ("run_now", Status.SCHEDULED, Status.READY),
        ("hold", Status.READY, Status.HELD),
        ("release", Status.HELD, Status.READY),
    ],
)
def test_button_runs_its_action_at_once(admin_client, verb, before, after):
    task = TaskFactory(status=before)

    response = admin_client.post(f"{TASKS}{task.pk}/do/{verb}/", follow=True)

    assert Task.objects.get().status == after
    assert response.redirect_chain == [(f"{TASKS}{task.pk}/change/", 302)]


def test_action_that_is_no_longer_possible_is_explained(admin_client):
    task = TaskFactory(status=Status.RUNNING)

    response = admin_client.post(f"{TASKS}{task.pk}/do/requeue/", follow=True)

    assert "0 tasks requeued. 1 task skipped: already running." in text(response)


def test_get_request_changes_nothing(admin_client):
    task = TaskFactory(status=Status.FAILED)

    response = admin_client.get(f"{TASKS}{task.pk}/do/requeue/")

    assert response.status_code == 405
    assert Task.objects.get().status == Status.FAILED
