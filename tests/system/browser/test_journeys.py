"""What operators come for, from the landing page, and how many clicks it takes."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from bgtask.db import DatabaseNow
from bgtask.models import Attempt, Task, TaskHold
from bgtask.status import Status
from bgtask_admin.actions import run
from bgtask_admin.models import Operation
from tests.factories import QueueStatsFactory, TaskFactory, WorkerFactory

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.vendor("sqlite"),  # A browser does not see the database.
]

with_and_without_javascript = pytest.mark.parametrize(
    "javascript", [True, False], ids=["javascript", "no javascript"]
)
wide_and_narrow = pytest.mark.parametrize("width", [1400, 360])


def failed(number: int, error: str, fingerprint: str, task_name: str = "shop.send") -> None:
    for task in TaskFactory.create_batch(
        number,
        status=Status.FAILED,
        task_name=task_name,
        error_class=error,
        error_fingerprint=fingerprint,
        last_error=f"Traceback (most recent call last):\n{error}: no luck",
    ):
        Attempt.objects.create(
            task=task,
            token=task.token,
            number=1,
            worker="host:1",
            started_at=timezone.now() - timedelta(seconds=2),
            finished_at=timezone.now() - timedelta(seconds=1),
            outcome="failed",
            error_class=error,
            message="no luck",
            traceback=f'  File "/shop/send.py", line 3, in send\n{error}: no luck',
            error_fingerprint=fingerprint,
        )


@with_and_without_javascript
@wide_and_narrow
def test_tasks_of_one_error_are_requeued_in_three_clicks(dashboard, javascript, width):
    failed(4, "shop.Refused", "a" * 32)
    failed(2, "shop.Other", "b" * 32)
    page = dashboard(javascript=javascript, width=width).go()

    page.get_by_role("link", name="shop.Refused").click()
    assert "/shop/send.py" in page.locator("#traceback").inner_text()
    page.get_by_role("link", name="Requeue all 4…").click()
    page.get_by_role("button", name="Requeue 4 tasks").click()

    assert "4 tasks requeued." in page.locator(".messagelist").inner_text()
    assert Task.objects.ready().count() == 4
    assert Task.objects.failed().count() == 2


@with_and_without_javascript
@wide_and_narrow
def test_overview_shows_without_a_click_whether_a_queue_is_delayed(dashboard, javascript, width):
    WorkerFactory()
    TaskFactory(queue="mail", run_at=DatabaseNow(-412))
    for minute, age in ((4, 30_000), (3, 90_000), (2, 150_000), (1, 210_000)):
        QueueStatsFactory(minute=minute, queue="mail", ready=1, oldest_ready_age=age)

    page = dashboard(javascript=javascript, width=width).go()

    verdict = page.locator(".bg-verdict").inner_text()
    assert "mail has been behind since" in verdict
    assert "6 m 5" in verdict
    assert "limit 5 m" in verdict


@with_and_without_javascript
@wide_and_narrow
def test_tasks_of_a_stuck_worker_are_one_click_away(dashboard, javascript, width):
    worker = WorkerFactory(label="web-3:4121", silent=True)
    task = TaskFactory(status=Status.RUNNING, locked_by=worker, task_name="shop.slow")
    page = dashboard(javascript=javascript, width=width).go()
    row = page.locator("tr", has_text="web-3:4121")
    assert "silent" in row.inner_text()

    row.get_by_role("link", name=f"shop.slow #{task.pk}").click()

    assert "Attempt 1 is running" in page.locator(".bg-timeline").inner_text()


@with_and_without_javascript
@wide_and_narrow
def test_task_type_is_held_in_two_clicks(dashboard, javascript, width):
    failed(1, "shop.Refused", "a" * 32, task_name="shop.poison")
    TaskFactory(task_name="shop.poison")
    TaskFactory(task_name="shop.fine")
    page = dashboard(javascript=javascript, width=width).go()

    page.get_by_role("link", name="Hold shop.poison").click()
    page.get_by_role("button", name="Hold shop.poison").click()

    assert TaskHold.objects.get().task_name == "shop.poison"
    assert Task.objects.held().get().task_name == "shop.poison"
    assert Task.objects.ready().get().task_name == "shop.fine"


@with_and_without_javascript
def test_long_operation_continues_by_itself_or_by_a_button(dashboard, javascript, monkeypatch):
    monkeypatch.setattr(run, "CHUNK", 1)
    monkeypatch.setattr(run.step, "__defaults__", (0.0,))
    TaskFactory.create_batch(4, status=Status.FAILED)
    page = dashboard(javascript=javascript).go("/admin/bgtask/task/?status=FAILED")

    page.get_by_role("button", name="All 4 matching…").click()
    page.get_by_role("button", name="Requeue 4 tasks").click()
    if not javascript:
        while page.get_by_role("button", name="Continue").count():
            page.get_by_role("button", name="Continue").click()

    page.get_by_text("Done", exact=True).or_(page.get_by_text("done", exact=True)).first.wait_for()
    assert "4 tasks requeued." in page.locator("[data-words]").inner_text()
    assert Operation.objects.get().changed == 4


@pytest.mark.sample
def test_everything_can_be_done_by_keyboard(dashboard):
    TaskFactory.create_batch(2, status=Status.FAILED)
    page = dashboard().go("/admin/bgtask/task/?status=FAILED")

    page.keyboard.press("/")
    page.keyboard.type("status:failed queue:default")
    page.keyboard.press("Enter")
    page.locator(".bg-chips", has_text="queue default").wait_for()
    page.locator("input[name=tick]").first.focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Selected…").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Requeue 1 task").focus()
    page.keyboard.press("Enter")

    page.locator(".messagelist").wait_for()
    assert Task.objects.ready().count() == 1
