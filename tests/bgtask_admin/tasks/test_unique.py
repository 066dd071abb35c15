"""Test that the pages show and search unique keys, and that an operator can give one up."""

from __future__ import annotations

import pytest
from django.urls import reverse

from bgtask.db import DatabaseNow
from bgtask.models import Task
from bgtask.status import Status
from bgtask_admin.models import Operation
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db

KEY = "reindex:42"
ALL = ("view_task", "view_task_arguments", "change_task", "requeue_task")
LIST = "/admin/bgtask/task/"


def task_page(client, task):
    return client.get(reverse("admin:bgtask_task_change", args=[task.pk])).content.decode()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"unique_key": KEY, "unique_while": "running"}, "held until the task is finished"),
        ({"unique_key": KEY, "unique_while": "waiting"}, "held until a worker takes the task"),
        ({}, "not held by this task"),
        (
            {
                "unique_key": KEY,
                "unique_until": DatabaseNow(3600),
                "status": Status.SUCCESSFUL,
            },
            "held until",
        ),
    ],
)
def test_the_page_of_a_task_says_for_how_long_it_holds_its_key(log_in, columns, words):
    shown = task_page(log_in(*ALL), TaskFactory(unique_name=KEY, **columns))
    assert KEY in shown
    assert words in " ".join(shown.split())


def test_a_key_may_contain_arguments_so_it_is_hidden_like_them(log_in):
    client = log_in("view_task", "change_task")
    assert KEY not in task_page(client, TaskFactory(unique_name=KEY, unique_key=KEY))
    assert client.get(LIST, {"unique": KEY}).status_code == 403


def test_a_search_finds_the_task_that_holds_the_key(log_in):
    holder = TaskFactory(unique_name=KEY, unique_key=KEY, task_name="tests.holder")
    TaskFactory(unique_name=KEY, status=Status.FAILED, task_name="tests.other")
    response = log_in(*ALL).get(LIST, {"q": f"unique:{KEY}"})
    shown = response.content.decode()
    assert f"/{holder.pk}/change/" in shown
    assert "1 task matches" in shown
    assert "unique key reindex:42" in shown


def test_the_key_can_be_given_up(log_in):
    task = TaskFactory(unique_name=KEY, unique_key=KEY)
    client = log_in(*ALL)
    assert "Give up the key" in task_page(client, task)
    confirm = reverse("admin:bgtask_admin_confirm")
    page = client.get(confirm, {"verb": "give_up_key", "id": task.pk})
    assert "Give up the unique key of 1 task" in page.content.decode()
    target = reverse("admin:bgtask_admin_verb", args=[task.pk, "give_up_key"])
    client.post(target)
    task.refresh_from_db()
    assert task.unique_key is None
    assert Operation.objects.get().changed == 1
    assert "verb=give_up_key" not in task_page(client, task)


def test_giving_up_a_key_needs_the_permission_to_change(log_in):
    task = TaskFactory(unique_name=KEY, unique_key=KEY)
    client = log_in("view_task", "requeue_task")
    assert "Give up the key" not in task_page(client, task)
    target = reverse("admin:bgtask_admin_verb", args=[task.pk, "give_up_key"])
    assert client.post(target).status_code == 403


def test_a_requeue_says_which_task_has_the_key(log_in):
    task = TaskFactory(unique_name=KEY, status=Status.FAILED)
    holder = TaskFactory(unique_name=KEY, unique_key=KEY)
    target = reverse("admin:bgtask_admin_verb", args=[task.pk, "requeue"])
    response = log_in(*ALL).post(target, follow=True)
    words = " ".join(response.content.decode().split())
    assert f"1 task skipped: task {holder.pk} has its key." in words
    assert Task.objects.get(pk=task.pk).status == Status.FAILED
