from __future__ import annotations

import pytest
from django.urls import reverse

from bgtask.models import Task
from bgtask.status import Status
from tests.factories import TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db

LANDING = "/admin/bgtask_admin/queuehealth/"
TASKS = "/admin/bgtask/task/"


@pytest.fixture
def mixed(db):
    for status in Status:
        TaskFactory.create_batch(2, status=status)


def test_landing(admin_client, mixed):
    response = admin_client.get(LANDING)
    assert response.status_code == 200
    print(response.content.decode()[-200:])


@pytest.mark.parametrize(
    "query", ["", *(f"?status={status}" for status in Status), "?q=42", "?queue=x"]
)
def test_tasks(admin_client, mixed, query):
    response = admin_client.get(TASKS + query)
    assert response.status_code == 200


def test_task(admin_client, mixed):
    for task in Task.objects.all():
        assert admin_client.get(f"{TASKS}{task.pk}/change/").status_code == 200


def test_others(admin_client, mixed):
    for url in [
        "/admin/bgtask_admin/operation/",
        LANDING + "error/abc/",
        TASKS + "confirm/?verb=requeue&status=FAILED",
        LANDING + "hold/?name=x",
        LANDING + "pause/?name=x",
        TASKS + "export.csv",
        TASKS + "export.json",
        "/admin/",
        "/admin/bgtask_admin/",
    ]:
        response = admin_client.get(url)
        print(url, response.status_code)
        b"".join(response)
