from __future__ import annotations

import csv
import io
import json
import warnings

import pytest
from asgiref.sync import async_to_sync

from bgtask.status import Status
from bgtask_admin.tasks import export
from tests.bgtask_admin.urls import TASKS
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db


def exported(client, form, query=""):
    response = client.get(f"{TASKS}export.{form}?{query}")
    return b"".join(response.streaming_content).decode()


def table_of(client):
    text = exported(client, "csv").removeprefix("\ufeff")
    return csv.DictReader(io.StringIO(text, newline=""))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r=1", "＝1"])
def test_no_cell_is_a_formula(admin_client, text):
    TaskFactory(verbose_name=text, status=Status.FAILED, error_class=text)

    (row,) = table_of(admin_client)

    assert row["verbose_name"] == f"'{text}"
    assert row["error_class"] == f"'{text}"


def test_export_has_only_matching_tasks(admin_client):
    wanted = TaskFactory(queue="mail")
    TaskFactory()

    (row,) = json.loads(exported(admin_client, "json", "queue=mail"))

    assert (row["id"], row["queue"]) == (wanted.pk, "mail")


def test_export_reads_several_batches_and_stops_at_its_limit(admin_client, monkeypatch):
    monkeypatch.setattr(export, "BATCH", 2)
    TaskFactory.create_batch(5)
    assert len(json.loads(exported(admin_client, "json"))) == 5

    monkeypatch.setattr(export, "MOST", 3)

    assert len(json.loads(exported(admin_client, "json"))) == 3


def test_exported_arguments_are_masked_and_need_a_permission(admin_client, log_in):
    TaskFactory(task_params='[[], {"customer": 4711, "password": "hunter2"}]')

    (mine,) = json.loads(exported(admin_client, "json"))
    (theirs,) = json.loads(exported(log_in("view_task"), "json"))

    assert mine["arguments"] == {"customer": 4711, "password": "********"}
    assert "arguments" not in theirs


@pytest.mark.parametrize("form", ["csv", "json"])
def test_export_without_tasks_has_its_header(admin_client, form):
    assert exported(admin_client, form).removeprefix("\ufeff") in (
        "[]\n",
        ",".join(export.COLUMNS) + "\r\n",
    )


def test_spreadsheet_reads_the_stored_values(admin_client):
    """A table for Excel: it tells its encoding, and no cell is longer than Excel takes."""
    TaskFactory(
        verbose_name="Köln", task_name="🙂", task_params=json.dumps([[], {"text": "x" * 40_000}])
    )

    (row,) = table_of(admin_client)

    assert (row["verbose_name"], row["task_name"]) == ("Köln", "🙂")
    assert exported(admin_client, "csv").startswith("\ufeffid,")
    assert len(row["arguments"]) == 32_767
    assert row["arguments"].endswith("x…")


@pytest.mark.parametrize("form", ["csv", "json"])
def test_export_streams_under_asgi(async_client, admin_user, form, monkeypatch):
    """A streamed page: the server never has to read all of it before it sends the first part."""
    monkeypatch.setattr(export, "BATCH", 2)
    TaskFactory.create_batch(5)
    async_client.force_login(admin_user)

    async def fetch():
        response = await async_client.get(f"{TASKS}export.{form}")
        return [part async for part in response.streaming_content]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = b"".join(async_to_sync(fetch)()).decode("utf-8-sig")

    assert len(json.loads(text) if form == "json" else text.splitlines()[1:]) == 5


def test_export_refuses_an_invalid_filter(admin_client):
    assert admin_client.get(f"{TASKS}export.csv?status=FAILD").status_code == 400
    assert admin_client.get(f"{TASKS}export.xml").status_code == 404
