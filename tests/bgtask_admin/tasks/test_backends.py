"""Tasks of Django's API are shown and operated as any other."""

from __future__ import annotations

from uuid import uuid4

import pytest

from bgtask.models import Task
from bgtask.status import Status
from bgtask.testing import run_due
from tests.bgtask_admin.urls import TASKS, text
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db


def django_task(**fields):
    return TaskFactory(backend="mail", result_id=uuid4(), max_attempts=1, **fields)


def test_the_page_of_a_task_names_its_kind_backend_and_result(admin_client):
    task = django_task(
        status=Status.SUCCESSFUL, task_params='[[1], {"two": 2}]', return_value='"the value"'
    )

    page = text(admin_client.get(f"{TASKS}{task.pk}/change/"))

    assert "Django’s @task" in page
    assert "backend mail" in page
    assert task.result_id.hex in page
    assert "the value" in page
    assert "1 of 1" in page


def test_the_page_of_a_background_function_names_no_backend(admin_client):
    task = TaskFactory(status=Status.SUCCESSFUL)

    page = text(admin_client.get(f"{TASKS}{task.pk}/change/"))

    assert "backend" not in page


def test_the_id_of_a_result_is_hidden_like_the_result(log_in):
    """Kind of fault: an id that opens a result in the project is shown to everybody."""
    task = django_task(status=Status.SUCCESSFUL)

    page = text(log_in("view_task").get(f"{TASKS}{task.pk}/change/"))

    assert "backend mail" in page
    assert task.result_id.hex not in page


@pytest.mark.parametrize("query", ["backend=mail", "q=backend:mail"])
def test_the_list_is_filtered_by_backend(admin_client, query):
    ours = django_task(verbose_name="of the backend")
    TaskFactory(verbose_name="of a function")

    page = text(admin_client.get(f"{TASKS}?{query}"))

    assert str(ours.verbose_name) in page
    assert "of a function" not in page
    assert "backend mail" in page


def test_the_form_offers_the_filter(admin_client):
    pytest.importorskip("bgtask.backend")

    assert 'name="backend"' in admin_client.get(TASKS).content.decode()


def test_holds_and_requeues_work_on_tasks_of_a_backend(admin_client):
    jobs = pytest.importorskip("tests.bgtask.backend.jobs")
    result = jobs.add.enqueue(1)
    row = Task.objects.get()

    row.hold()
    assert run_due() == []
    Task.objects.filter(backend="default").unhold()
    run_due()
    Task.objects.filter(backend="default").requeue()
    run_due()

    result.refresh()
    assert (result.status, result.attempts) == ("SUCCESSFUL", 2)
