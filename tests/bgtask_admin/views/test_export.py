from __future__ import annotations

import csv
import io
import json

import pytest

from bgtask.status import Status
from bgtask_admin.views import export
from tests.bgtask_admin.urls import TASKS
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db


def exported(client, form, query=""):
    response = client.get(f"{TASKS}export.{form}?{query}")
    return b"".join(response.streaming_content).decode()


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r=1"])
def test_no_cell_is_a_formula(admin_client, text):
    TaskFactory(verbose_name=text, status=Status.FAILED, error_class=text)

    (row,) = csv.DictReader(io.StringIO(exported(admin_client, "csv"), newline=""))

    assert row["verbose_name"] == f"'{text}"
    assert row["error_class"] == f"'{text}"


def test_only_what_matches(admin_client):
    wanted = TaskFactory(queue="mail")
    TaskFactory()

    (row,) = json.loads(exported(admin_client, "json", "queue=mail"))

    assert (row["id"], row["queue"]) == (wanted.pk, "mail")


def test_goes_on_beyond_one_batch_and_stops_at_the_cap(admin_client, monkeypatch):
    monkeypatch.setattr(export, "BATCH", 2)
    TaskFactory.create_batch(5)
    assert len(json.loads(exported(admin_client, "json"))) == 5

    monkeypatch.setattr(export, "MOST", 3)

    assert len(json.loads(exported(admin_client, "json"))) == 3


def test_arguments_are_masked_and_for_those_who_may_see_them(admin_client, log_in):
    TaskFactory(task_params='[[], {"customer": 4711, "password": "hunter2"}]')

    (mine,) = json.loads(exported(admin_client, "json"))
    (theirs,) = json.loads(exported(log_in("view_task"), "json"))

    assert mine["arguments"] == {"customer": 4711, "password": "********"}
    assert "arguments" not in theirs


@pytest.mark.parametrize("form", ["csv", "json"])
def test_nothing_is_something(admin_client, form):
    assert exported(admin_client, form) in ("[]\n", ",".join(export.COLUMNS) + "\r\n")


def test_a_wrong_filter_is_refused(admin_client):
    assert admin_client.get(f"{TASKS}export.csv?status=FAILD").status_code == 400
    assert admin_client.get(f"{TASKS}export.xml").status_code == 404
