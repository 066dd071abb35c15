from __future__ import annotations

import pytest

from bgtask.db import DatabaseNow
from bgtask.models import Attempt, TaskHold
from bgtask.status import Status
from tests.bgtask_admin.urls import LANDING, text
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db


def failed(fingerprint="abc", **columns):
    task = TaskFactory(status=Status.FAILED, error_fingerprint=fingerprint, **columns)
    Attempt.objects.create(
        task=task,
        token=1,
        number=1,
        finished_at=task.finished_at,
        outcome="failed",
        error_class="shop.Refused",
        message="no luck",
        traceback='  File "/shop.py", line 7, in send\nshop.Refused: no luck',
        error_fingerprint=fingerprint,
    )
    return task


def test_error_page_shows_the_newest_traceback_and_the_affected_tasks(admin_client):
    failed(task_name="shop.send", queue="mail", last_worker="web-1:4121")
    failed(task_name="shop.call", queue="phone")
    failed(fingerprint="other", task_name="shop.facsimile")

    page = text(admin_client.get(f"{LANDING}error/abc/"))

    for words in ("shop.Refused", "/shop.py", "shop.<wbr>send", "mail", "phone", "web-1:4121"):
        assert words in page
    assert "Requeue all 2…" in page
    assert "facsimile" not in page


def test_a_type_on_hold_is_not_offered_again(admin_client):
    failed(task_name="shop.send")
    TaskHold.objects.create(task_name="shop.send", held_at=DatabaseNow())

    page = text(admin_client.get(f"{LANDING}error/abc/"))

    assert "shop.send is on hold" in page
    assert "Hold shop.send…" not in page


@pytest.mark.parametrize("fingerprint", ["nothing", "a/b", "%3Cscript%3E"])
def test_unknown_error_group_is_reported_as_not_found(admin_client, fingerprint):
    response = admin_client.get(f"{LANDING}error/{fingerprint}/")

    assert response.status_code == 404
    assert "No failures with this error" in text(response)
