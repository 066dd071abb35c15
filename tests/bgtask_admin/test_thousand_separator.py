"""Test the pages of a project that sets USE_THOUSAND_SEPARATOR, with ids above a million."""

from __future__ import annotations

import html
import re

import pytest
from django.test import override_settings
from django.utils import translation

from bgtask.db import DatabaseNow
from bgtask.models import Attempt, Task
from bgtask.status import Status
from bgtask_admin.actions import run
from bgtask_admin.models import Operation
from bgtask_admin.tasks.selection import Selection
from tests.bgtask_admin.urls import CONFIRM, LANDING, OPERATIONS, TASKS, preview_of, text
from tests.factories import TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db

FIRST_ID = 1_234_001
# An id with any separator that a language may put in: a comma, a dot, an apostrophe, a blank.
SEPARATED = re.compile(r"1[^0-9a-zA-Z<>\"=/]{1,2}234[^0-9a-zA-Z<>\"=/]{1,2}\d{3}")
LINK = re.compile(r'href="(/admin/bgtask(?!_admin/(?:task|schedule)list)[^"]*|\?[^"]*)"')


@pytest.fixture
def tasks(admin_user):
    """Create a task of each status, with an id, a duration and a priority above a thousand."""
    worker = WorkerFactory(threads=1_500)
    found = [
        TaskFactory(
            id=FIRST_ID + number,
            status=status,
            queue="mail",
            priority=12_345,
            attempts=1_250,
            max_attempts=2_500,
            duration_ms=1_234_567,
            task_params='[[1234567], {"order": 7654321}]',
            locked_by=worker if status == Status.RUNNING else None,
        )
        for number, status in enumerate(Status)
    ]
    failed = Task.objects.get(status=Status.FAILED)
    Task.objects.failed().update(error_class="Refused", error_fingerprint="abc")
    Attempt.objects.create(
        id=1_234_900, task=failed, token=1, number=1_250, finished_at=DatabaseNow(-1),
        outcome="failed", error_class="Refused", error_fingerprint="abc",
        traceback='  File "/shop.py", line 1234, in send\nRefused: no',
    )  # fmt: skip
    run.do("priority", Selection.parse({"queue": "mail"}), {"priority": 12_345}, user=admin_user)
    return found


def pages(tasks):
    operation = Operation.objects.get()
    return [
        LANDING, f"{LANDING}queues/", TASKS, *(f"{TASKS}?status={status}" for status in Status),
        *(f"{TASKS}{task.pk}/change/" for task in tasks), f"{TASKS}?id={FIRST_ID}",
        f"{TASKS}?q={FIRST_ID}", f"{LANDING}error/abc/", f"{CONFIRM}?verb=requeue&status=FAILED",
        f"{CONFIRM}?verb=delete&id={FIRST_ID}", f"{LANDING}pause/?name=mail",
        f"{LANDING}hold/?name=tests.tasks.noop", OPERATIONS, f"{OPERATIONS}{operation.pk}/change/",
    ]  # fmt: skip


@pytest.fixture(params=["en", "de", "fr"])
def language(request):
    with (
        override_settings(USE_THOUSAND_SEPARATOR=True, LANGUAGE_CODE=request.param),
        translation.override(request.param),
    ):
        yield request.param


def test_ids_have_no_separators_on_any_page(admin_client, tasks, language):
    """Kind of fault: the language's separators in an id, so that it can't be copied."""
    for url in pages(tasks):
        response = admin_client.get(url, headers={"accept-language": language})
        page = html.unescape(text(response))

        assert response.status_code == 200, url
        assert not SEPARATED.findall(page.replace("1,234,567 ms", "")), url
        assert not re.findall(r"12[.\s\u202f]345|1[.\s\u202f]250", page), url


def test_every_link_of_a_task_and_of_a_list_works(admin_client, tasks, language):
    """Kind of fault: the language's separators in the id of a link, so that it leads nowhere."""
    failed = next(task for task in tasks if task.status == Status.FAILED)
    urls = (f"{TASKS}{failed.pk}/change/", f"{TASKS}?status=FAILED", LANDING)
    links = {
        f"{url.partition('?')[0]}{link}" if link.startswith("?") else link
        for url in urls
        for link in map(html.unescape, LINK.findall(text(admin_client.get(url))))
    }

    for link in sorted(links):
        assert admin_client.get(link).status_code == 200, link
    assert f"{CONFIRM}?verb=delete&id={failed.pk}" in links


def test_the_forms_of_a_page_carry_plain_ids(admin_client, tasks, language):
    task = next(task for task in tasks if task.status == Status.READY)
    ticked = admin_client.get(CONFIRM, {"verb": "hold", "which": "ticked", "tick": task.pk})
    admin_client.post(CONFIRM, {"preview": preview_of(ticked)})

    assert ticked.status_code == 200
    assert Task.objects.get(pk=task.pk).status == Status.HELD
