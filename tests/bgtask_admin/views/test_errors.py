from __future__ import annotations

import pytest

from bgtask.dialects import Clock
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


def test_shows_the_newest_traceback_and_who_is_affected(admin_client):
    failed(task_name="shop.send", queue="mail", last_worker="web-1:4121")
    failed(task_name="shop.call", queue="phone")
    failed(fingerprint="other", task_name="shop.fax")

    page = text(admin_client.get(f"{LANDING}error/abc/"))

    for words in ("shop.Refused", "/shop.py", "shop.<wbr>send", "mail", "phone", "web-1:4121"):
        assert words in page
    assert "Requeue all 2…" in page
    assert "fax" not in page


def test_a_type_on_hold_is_not_offered_again(admin_client):
    failed(task_name="shop.send")
    TaskHold.objects.create(task_name="shop.send", held_at=Clock())

    page = text(admin_client.get(f"{LANDING}error/abc/"))

    assert "shop.send is on hold" in page
    assert "Hold shop.send…" not in page


@pytest.mark.parametrize("fingerprint", ["nothing", "a/b", "%3Cscript%3E"])
def test_an_unknown_one_is_not_found_in_words(admin_client, fingerprint):
    response = admin_client.get(f"{LANDING}error/{fingerprint}/")

    assert response.status_code == 404
    assert "No failures with this error" in text(response)
