"""Everything that a row holds may be hostile."""

from __future__ import annotations

import csv
import io
import json
from html import unescape

import pytest
from django.db import connection

from bgtask.db import DatabaseNow
from bgtask.models import Attempt, QueuePause, Task, TaskHold
from bgtask.status import Status
from tests.bgtask_admin.urls import CONFIRM, LANDING, OPERATIONS, TASKS, preview_of, text
from tests.factories import TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db

CORPUS = {
    "html": "<b>bold</b>\"'><svg onload=alert(1)>",
    "script": "</script><script>alert(1)</script>",
    "template": "{{ settings.SECRET_KEY }}{% debug %}%(x)s{0}",
    "bidi": "\u202etxt.exe\u2066\u200b",
    "ansi": "\x1b[2J\x1b]0;owned\x07",
    "four bytes": "💣𝕏",
    "newlines": "a\r\nSet-Cookie: x=1\n",
    "url": "javascript:alert(1)//?a=b&c=d#e%00",
    "nul": "a\x00b",
}


@pytest.fixture(params=list(CORPUS.values()), ids=list(CORPUS))
def hostile(request, db):
    if "\x00" in request.param and connection.vendor == "postgresql":
        pytest.skip("PostgreSQL keeps no NUL")
    return request.param


@pytest.fixture
def rows(hostile):
    worker = WorkerFactory(label=hostile, host=hostile, queues=hostile)
    columns = {"task_name": hostile, "queue": hostile[:100], "verbose_name": hostile}
    for status in Status:
        TaskFactory(status=status, task_params=hostile, last_worker=hostile,
                    locked_by=worker if status == Status.RUNNING else None, **columns)  # fmt: skip
    Task.objects.failed().update(
        error_class=hostile, error_fingerprint=hostile[:32], last_error=hostile
    )
    Task.objects.succeeded().update(return_value=hostile)
    Attempt.objects.create(
        task=Task.objects.failed().get(), token=1, number=1, worker=hostile,
        finished_at=DatabaseNow(-1), outcome="failed", error_class=hostile, message=hostile,
        traceback=hostile, error_fingerprint=hostile[:32],
    )  # fmt: skip
    TaskHold.objects.create(
        task_name=hostile, held_at=DatabaseNow(), held_by=hostile, reason=hostile
    )
    QueuePause.objects.create(
        queue=hostile[:100], paused_at=DatabaseNow(), paused_by=hostile, reason=hostile
    )


def pages(client):
    yield from (LANDING, TASKS, *(f"{TASKS}?status={status}" for status in Status))
    yield f"{CONFIRM}?verb=cancel&status=READY"
    yield from (f"{TASKS}{pk}/change/" for pk in Task.objects.values_list("pk", flat=True))
    links = [link.partition('"')[0] for link in text(client.get(LANDING)).split('href="')]
    yield from (unescape(link) for link in links if "/error/" in link)
    yield OPERATIONS


def test_every_page_escapes_hostile_text(admin_client, rows, hostile):
    admin_client.post(f"{TASKS}{Task.objects.failed().get().pk}/do/requeue/")
    for url in pages(admin_client):
        response = admin_client.get(url)

        assert response.status_code == 200, url
        page = text(response)
        assert "<svg onload" not in page
        assert "<script>alert" not in page
        assert "<b>bold" not in page
        assert 'href="javascript:' not in page
        for character in "\x00\x1b\u202e\u2066\u200b":
            assert character not in visible_part(page), (url, repr(character))


def visible_part(page: str) -> str:
    """Without what fields carry to be sent back, which must stay as it is."""
    main = page.partition("<main")[2].partition("</main")[0]
    return "".join(part.partition('"')[2] for part in main.split(' value="'))


def test_export_keeps_hostile_text_in_its_cell(admin_client, rows, hostile):
    as_csv, as_json = (
        b"".join(admin_client.get(f"{TASKS}export.{form}")).decode() for form in ("csv", "json")
    )

    cells = list(csv.DictReader(io.StringIO(as_csv, newline=""), strict=True))
    assert len(cells) == len(Status)
    for row in cells:
        assert row["task_name"].removeprefix("'") == hostile.replace("\x00", "\ufffd")
        assert row["status"] in Status.values
    assert [row["task_name"] for row in json.loads(as_json)] == [hostile] * len(Status)


@pytest.mark.parametrize("page", ["", "{pk}/change/", "export.csv", "export.json"])
def test_surrogate_in_a_file_name_breaks_no_page(admin_client, page):
    halved = b"rapport-\xe9.pdf".decode("utf-8", "surrogateescape")
    task = Task.objects.enqueue("tests.tasks.noop", [halved], {halved: halved})
    Task.objects.update(return_value='"\\udce9"')

    response = admin_client.get(f"{TASKS}{page.format(pk=task.pk)}")

    assert response.status_code == 200
    assert b"rapport-" in b"".join(response)


@pytest.mark.parametrize("where", ["q", "queue", "task", "error_class", "since", "after", "x"])
def test_hostile_query_breaks_no_page(admin_client, hostile, where):
    response = admin_client.get(TASKS, {where: hostile, "status": "FAILED"})

    assert response.status_code in (200, 400)
    assert "<script>alert" not in text(response)
    assert "<svg onload" not in text(response)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("since", "0001-01-01T00:00:00+23:00"),
        ("until", "9999-12-31T23:59:59-10:00"),
        ("after", "0001-01-01T00:00:00+23:00~1"),
        ("before", "9999-12-31T23:59:59-10:00~1"),
    ],
)
def test_time_out_of_range_is_refused_with_a_message(admin_client, key, value):
    assert admin_client.get(TASKS, {key: value, "status": "FAILED"}).status_code == 400


LONG = "x" * 300


@pytest.mark.parametrize("page", ["hold", "release", "pause", "resume"])
@pytest.mark.parametrize("name", ["", " ", "a\x00b", LONG], ids=["none", "blank", "nul", "long"])
def test_impossible_task_name_is_not_found(admin_client, page, name):
    assert admin_client.post(f"{LANDING}{page}/", {"name": name}).status_code == 404
    assert not TaskHold.objects.exists()
    assert not QueuePause.objects.exists()


def test_impossible_queue_name_is_not_found(admin_client):
    name = "x" * 101

    assert admin_client.get(f"{LANDING}pause/", {"name": name}).status_code == 404
    assert admin_client.post(f"{LANDING}pause/", {"name": name}).status_code == 404
    assert admin_client.post(f"{LANDING}hold/", {"name": name}).status_code == 302


def test_impossible_error_group_is_not_found(admin_client):
    assert admin_client.get(f"{LANDING}error/%00/").status_code == 404


@pytest.mark.parametrize("reason", ["a\x00b", "x" * 501], ids=["nul", "long"])
def test_reason_that_cannot_be_stored_is_requested_again(admin_client, reason):
    TaskFactory(status=Status.FAILED)
    signed = preview_of(admin_client.get(f"{CONFIRM}?verb=requeue&status=FAILED"))

    response = admin_client.post(CONFIRM, {"preview": signed, "reason": reason})

    assert response.status_code == 400
    assert "errorlist" in text(response)
    assert Task.objects.failed().count() == 1
