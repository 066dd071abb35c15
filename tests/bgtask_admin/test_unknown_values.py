"""A row with a value of a newer release, or one edited by hand, breaks no page."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from bgtask.models import Attempt, Task, Worker
from bgtask.status import Status
from bgtask_admin.models import Operation
from bgtask_admin.monitoring import snapshot
from tests.bgtask_admin.monitoring import BEARER, TOKEN
from tests.bgtask_admin.urls import CONFIRM, LANDING, OPERATIONS, TASKS, preview_of, text, words
from tests.factories import AttemptFactory, TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def rows(settings):
    settings.BGTASK = {"MONITOR_TOKENS": [TOKEN]}
    snapshot.forget()
    strange = TaskFactory(queue="mail")
    Task.objects.filter(pk=strange.pk).update(status="PARKED")
    held = TaskFactory(status=Status.HELD)
    Task.objects.filter(pk=held.pk).update(held_for="weather")
    attempt = AttemptFactory()
    Attempt.objects.update(outcome="vanished")
    WorkerFactory(label="web-1:7")
    Worker.objects.update(state="dozing")
    operation = Operation.objects.create(
        key="k", by="ann", verb="juggle", state="dreaming", filter='{"status": "PARKED"}',
        filter_words="All", previewed_at=datetime.fromisoformat("2026-01-01T00:00+00:00"),
        skipped_for='{"PARKED": 2}', high_water=10**9, matched=200, last_id=10**9,
    )  # fmt: skip
    yield strange, held, attempt, operation
    snapshot.forget()


def test_every_page_shows_the_value_as_it_is(admin_client, rows):
    """Unknown values: one row breaks a page for everybody."""
    strange, held, attempt, operation = rows
    shown = {
        TASKS: ["PARKED", "weather"],
        f"{TASKS}?queue=mail": ["PARKED"],
        f"{TASKS}?status=HELD": ["weather"],
        f"{TASKS}{strange.pk}/change/": ["PARKED"],
        f"{TASKS}{held.pk}/change/": ["weather"],
        f"{TASKS}{attempt.task_id}/change/": ["vanished"],
        LANDING: ["dozing"],
        f"{LANDING}queues/": [],
        f"{LANDING}error/{attempt.error_fingerprint}/": [],
        f"{CONFIRM}?verb=delete&id={strange.pk}": ["PARKED"],
        OPERATIONS: ["juggle", "dreaming"],
        f"{OPERATIONS}{operation.pk}/change/": ["juggle", "dreaming"],
    }
    for url, values in shown.items():
        response = admin_client.get(url)

        assert response.status_code == 200, url
        for value in values:
            assert value in text(response), (url, value)


def test_the_log_masks_the_filter_of_an_unknown_action(log_in, rows):
    Operation.objects.update(filter='{"argument": "a:4711"}', filter_words="argument a = 4711")

    page = text(log_in("view_task").get(OPERATIONS))

    assert "4711" not in page
    assert "********" in page


def test_every_endpoint_answers(client, rows):
    for path in ("health", "stats", "metrics"):
        assert client.get(f"/bgtask/{path}", headers=BEARER).status_code in (200, 503)


def test_an_export_has_the_value(admin_client, rows):
    exported = json.loads(b"".join(admin_client.get(f"{TASKS}export.json")))

    assert "PARKED" in {row["status"] for row in exported}
    assert b"PARKED" in b"".join(admin_client.get(f"{TASKS}export.csv"))


@pytest.mark.parametrize("verb", ["requeue", "cancel", "delete"])
def test_an_action_names_the_status_that_it_skips(admin_client, rows, verb):
    strange, *_ = rows
    signed = preview_of(admin_client.get(f"{CONFIRM}?verb={verb}&id={strange.pk}"))

    page = words(admin_client.post(CONFIRM, {"preview": signed}, follow=True))

    strange.refresh_from_db()
    if verb == "delete":  # Nothing says what the status means, so the task may be running.
        assert Task.objects.filter(pk=strange.pk).exists()
    assert "1 task skipped: its status is PARKED." in page
    assert strange.status == "PARKED"
    assert "its status is PARKED" in text(admin_client.get(OPERATIONS))
