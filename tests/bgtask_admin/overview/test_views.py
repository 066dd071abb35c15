from __future__ import annotations

import re
from copy import copy

import pytest

from bgtask.db import DatabaseNow
from bgtask.models import Attempt, QueuePause, Task, TaskHold
from bgtask.status import Status
from tests.bgtask_admin.urls import LANDING, TASKS, text, words
from tests.factories import AttemptFactory, TaskFactory, TaskStatsFactory, WorkerFactory

pytestmark = pytest.mark.django_db


def failed(**columns):
    task = TaskFactory(
        status=Status.FAILED, error_class="Refused", error_fingerprint="abc", **columns
    )
    Attempt.objects.create(
        task=task,
        token=task.token,
        number=1,
        finished_at=task.finished_at,
        outcome="failed",
        error_class="Refused",
        message="no luck",
        error_fingerprint="abc",
    )
    return task


def test_overview_shows_each_problem_and_its_start(admin_client):
    WorkerFactory()
    TaskFactory(queue="mail", run_at=DatabaseNow(-412))

    page = text(admin_client.get(LANDING))

    assert "mail is behind: oldest task waiting 6 m 5" in page
    assert 'class="bg-verdict bg-fail"' in page


def test_overview_groups_failures_and_links_to_actions(admin_client):
    failed(task_name="shop.send")
    failed(task_name="shop.send")

    page = text(admin_client.get(LANDING))

    assert f"{LANDING}error/abc/" in page
    assert "verb=requeue&amp;status=FAILED&amp;fingerprint=abc" in page
    assert f"{LANDING}hold/?name=shop.send" in page


def test_errors_without_a_group_link_to_a_task_and_cannot_be_requeued_together(admin_client):
    task = AttemptFactory(error_fingerprint="", error_class="Refused").task

    page = text(admin_client.get(LANDING))

    assert f'href="{TASKS}{task.pk}/change/">Refused' in page
    assert "fingerprint=" not in page  # It would say nothing: every failed task.


def test_overview_lists_running_tasks_with_the_lost_ones_first(admin_client):
    WorkerFactory(label="well:1")
    silent = WorkerFactory(label="silent:2", silent=True)
    TaskFactory(status=Status.RUNNING, locked_by=silent, task_name="shop.slow")

    page = text(admin_client.get(LANDING))

    assert page.index("silent:2") < page.index("well:1")
    assert "shop.<wbr>slow" in page
    assert "Return tasks to queue" in page


def test_overview_shows_the_number_of_stuck_threads(admin_client):
    WorkerFactory(label="well:1", threads=4)

    assert "stuck" not in text(admin_client.get(LANDING))

    WorkerFactory(label="lame:2", threads=4, stuck=2)

    assert "2 threads are stuck" in text(admin_client.get(LANDING))


def test_worker_with_many_tasks_hides_no_other_worker(admin_client):
    held = [WorkerFactory(label=f"busy:{number}") for number in range(4)]
    silent = WorkerFactory(label="silent:9", silent=True)
    for worker in (*held, silent):
        task = TaskFactory(status=Status.RUNNING, locked_by=worker)
        copies = [copy(task) for _ in range(700)]
        for one in copies:
            one.pk = None
        Task.objects.bulk_create(copies)
    longest = TaskFactory(status=Status.RUNNING, locked_by=held[3], locked_at=DatabaseNow(-900))

    page = text(admin_client.get(LANDING))

    for worker in (*held, silent):
        assert worker.label in page
    assert page.count("all 701") == 4
    assert "all 702" in page
    assert f"#{longest.pk}</a>" in page
    assert "Return tasks to queue" in page


def test_all_lost_workers_with_tasks_are_shown(admin_client, monkeypatch):
    monkeypatch.setattr("bgtask_admin.overview.views.MOST_WORKERS", 2)
    WorkerFactory(label="a-idle:1")
    WorkerFactory(label="b-silent:2", silent=True)
    WorkerFactory(label="c-dead:3", dead=True)
    for label, state in (("y-silent:4", {"silent": True}), ("z-dead:5", {"dead": True})):
        TaskFactory(status=Status.RUNNING, locked_by=WorkerFactory(label=label, **state))

    page = text(admin_client.get(LANDING))

    assert "y-silent:4" in page
    assert "z-dead:5" in page
    assert page.count("Return tasks to queue") == 2


def test_rates_of_many_slow_queues_are_added_up(admin_client):
    for number in range(5):
        for minute in (2, 3):
            TaskStatsFactory(minute=minute, queue=f"queue-{number}", succeeded=2)

    page = text(admin_client.get(LANDING))

    rate = re.search(r"<strong>([\d.]+)</strong><span>done per minute", page)
    # Five whole minutes, and what has gone of this one.
    assert rate is not None
    assert 3.3 <= float(rate[1]) <= 4


def test_overview_shows_pauses_and_holds_with_user_and_reason(admin_client):
    TaskHold.objects.create(
        task_name="shop.send", held_at=DatabaseNow(), held_by="jo", reason="INC-77"
    )
    QueuePause.objects.create(queue="mail", paused_at=DatabaseNow(), paused_by="jo")

    page = text(admin_client.get(LANDING))

    assert "INC-77" in page
    assert "paused" in page
    assert "Resume" in page


def test_nothing_is_green_over_failed_tasks(admin_client):
    """Kind of fault: an operator sees in the morning no word of the tasks that failed at night."""
    WorkerFactory()
    TaskFactory.create_batch(3, status=Status.FAILED, finished_at=DatabaseNow(-7_200))

    response = admin_client.get(LANDING)
    page, said = text(response), words(response)

    assert "OK: nothing is behind; 0 ready, 0 running, 1 worker; 3 failed tasks" in said
    assert "bg-verdict bg-pass bg-has-failed" in page
    assert "3failed tasks of any age" in said
    assert "None in the last hour. 3 older failed tasks →" in said
    assert "No failures" not in said
    assert f'href="{TASKS}?status=FAILED"' in page


def test_the_tile_of_failed_attempts_leads_to_no_list_of_others(admin_client):
    """Kind of fault: a figure links to a list with another number of other things."""
    TaskStatsFactory(minute=1, failed=2, retried=5)

    page = text(admin_client.get(LANDING))

    assert re.search(r"<div>\s*<strong>7</strong><span>failed attempts", page)


def test_empty_overview_explains_what_it_will_show(admin_client):
    page = text(admin_client.get(LANDING))

    assert "No failures in the last hour." in page
    assert "Start one with manage.py process_tasks" in page


@pytest.mark.parametrize("span", ["1h", "24h", "7d", "nonsense"])
def test_overview_covers_the_requested_period(admin_client, span):
    assert admin_client.get(LANDING, {"span": span}).status_code == 200


def test_monitor_permission_shows_figures_and_no_tasks(log_in):
    failed(task_name="shop.send")

    page = text(log_in("monitor").get(LANDING))

    assert "Queues" in page
    assert "shop.send" not in page
    assert "Refused" not in page
