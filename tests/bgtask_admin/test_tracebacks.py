"""Tracebacks and messages of errors are shown to users with a permission of their own."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry
from django.db import models

from bgtask.models import Task
from bgtask.status import Status
from bgtask_admin.models import Operation
from tests.bgtask_admin.urls import CONFIRM, LANDING, OPERATIONS, TASKS, preview_of, text
from tests.factories import AttemptFactory, TaskFactory
from tests.models import project_models

pytestmark = pytest.mark.django_db

SECRET = "DE12-3456"
MISSING = "You don’t have the permission to view tracebacks and error messages."
ERROR_CLASS = "shop.Refused"


@pytest.fixture
def attempt(db):
    traceback = f'  File "/shop.py", line 7, in send\n{ERROR_CLASS}: {SECRET}'
    return AttemptFactory(
        task__error_class=ERROR_CLASS, task__error_fingerprint="f" * 32,
        task__error_message=SECRET, task__last_error=traceback, error_class=ERROR_CLASS,
        message=SECRET, traceback=traceback,
    )  # fmt: skip


def pages(attempt):
    return [
        f"{TASKS}{attempt.task_id}/change/",
        f"{LANDING}error/{attempt.error_fingerprint}/",
        LANDING,
        TASKS,
        f"{TASKS}?status=FAILED",
    ]


def test_a_page_shows_only_the_class_of_an_error_without_the_permission(log_in, attempt):
    staff, reader = log_in("view_task"), log_in("view_task", "view_traceback")
    for url in pages(attempt):
        theirs, ours = text(staff.get(url)), text(reader.get(url))

        assert SECRET not in theirs, url
        assert "/shop.py" not in theirs, url
        assert "Refused" in theirs, url
        assert SECRET in ours, url
        assert MISSING not in ours, url


def test_the_pages_of_errors_say_that_the_permission_is_missing(log_in, attempt):
    for url in pages(attempt)[:3]:
        assert text(log_in("view_task").get(url)).count(MISSING) == 1


def test_a_task_without_attempts_shows_its_last_error_only_with_the_permission(log_in):
    task = TaskFactory(status=Status.FAILED, error_class=ERROR_CLASS, last_error=SECRET)
    url = f"{TASKS}{task.pk}/change/"

    assert SECRET not in text(log_in("view_task").get(url))
    assert MISSING in text(log_in("view_task").get(url))
    assert SECRET in text(log_in("view_task", "view_traceback").get(url))


def test_a_page_without_errors_says_nothing_of_the_permission(log_in):
    task = TaskFactory()

    for url in (f"{TASKS}{task.pk}/change/", LANDING, TASKS):
        assert MISSING not in text(log_in("view_task").get(url))


@pytest.mark.parametrize("form", ["csv", "json"])
def test_an_export_has_messages_only_with_the_permission(log_in, attempt, form):
    staff, reader = log_in("view_task"), log_in("view_task", "view_traceback")
    theirs, ours = (
        b"".join(client.get(f"{TASKS}export.{form}")).decode() for client in (staff, reader)
    )

    assert ERROR_CLASS in theirs
    assert SECRET not in theirs
    assert "error_message" not in theirs
    assert SECRET in ours


def test_the_operations_log_masks_an_error_text_without_the_permission(admin_client, log_in):
    TaskFactory.create_batch(101, status=Status.FAILED, last_error=SECRET)
    query = f"verb=requeue&status=FAILED&since=1h&error={SECRET}"
    signed = preview_of(admin_client.get(f"{CONFIRM}?{query}"))
    admin_client.post(CONFIRM, {"preview": signed})
    staff, reader = log_in("view_task"), log_in("view_task", "view_traceback")

    for url in (OPERATIONS, f"{OPERATIONS}{Operation.objects.get().pk}/change/"):
        assert SECRET not in text(staff.get(url))
        assert "error text “********”" in text(staff.get(url))
        assert SECRET in text(reader.get(url))
    assert SECRET not in LogEntry.objects.get().object_repr


@pytest.mark.django_db(transaction=True)
def test_the_result_of_a_deletion_names_only_the_class_of_an_error(log_in):
    """Permissions: the text of another error than that of a task."""

    def value():
        raise ValueError(SECRET)

    field = models.ForeignKey("bgtask.Task", models.SET(value), null=True, related_name="+")
    with project_models(("Job", {"task": field})) as (job,):
        job.objects.create(task=TaskFactory(status=Status.FAILED))
        staff = log_in("view_task", "delete_task")
        reader = log_in("view_task", "view_traceback")

        told = staff.post(f"{TASKS}{Task.objects.get().pk}/do/delete/", follow=True)
        url = f"{OPERATIONS}{Operation.objects.get().pk}/"
        step = staff.post(f"{url}step/", headers={"Accept": "application/json"})

        for response in (told, staff.get(OPERATIONS), staff.get(f"{url}change/")):
            assert "1 task skipped: ValueError." in text(response)
            assert SECRET not in text(response)
        assert SECRET not in step.json()["words"]
        assert SECRET in text(reader.get(f"{url}change/"))
