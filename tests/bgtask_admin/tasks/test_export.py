from __future__ import annotations

import csv
import io
import json
import re
import warnings

import pytest
from asgiref.sync import async_to_sync

from bgtask.status import Status
from bgtask_admin.tasks import bounds, export
from tests.bgtask_admin.urls import TASKS, text
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db


def exported(client, form, query=""):
    response = client.get(f"{TASKS}export.{form}?{query}")
    return b"".join(response.streaming_content).decode()


def table_of(client):
    text = exported(client, "csv").removeprefix("\ufeff")
    return csv.DictReader(io.StringIO(text, newline=""))


FORMULAS = [
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r=1", "＝1", "＋1", "－1", "＠SUM(A1)", "\tx",
    "\rx", "\nx",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(admin_client, text):
    TaskFactory(verbose_name=text, status=Status.FAILED, error_class=text)

    (row,) = table_of(admin_client)

    for column in ("verbose_name", "error_class"):
        assert row[column].startswith("'")
        assert row[column].replace("'", "") == text


@pytest.mark.parametrize("separator", [";", "\t", "\n", "\r\n", "; "])
@pytest.mark.parametrize("sign", export.FORMULA_SIGNS)
def test_no_part_of_a_cell_becomes_a_cell_with_a_formula(admin_client, separator, sign):
    """Kind of fault: in many countries, Excel splits lines at semicolons."""
    TaskFactory(verbose_name=f"x{separator}{sign}1{separator}y", task_name=f"{separator}{sign}2")

    lines = exported(admin_client, "csv").splitlines()

    parts = [part for line in lines for part in re.split("[;\t,]", line)]
    assert len(parts) > len(lines)
    assert not [part for part in parts if part.lstrip().startswith(export.FORMULA_SIGNS)]


@pytest.mark.parametrize("text", ["a;b", "1-2", "a;b=1", "x-;y", "Key (a)=(b)"])
def test_a_cell_without_a_formula_is_left_as_it_is(admin_client, text):
    TaskFactory(verbose_name=text)

    (row,) = table_of(admin_client)

    assert row["verbose_name"] == text


def name_of(client, query):
    response = client.get(f"{TASKS}export.csv?{query}")
    return response["Content-Disposition"].partition("filename=")[2].strip('"')


def test_a_file_with_all_tasks_is_called_so_and_one_with_a_part_is_not(admin_client, monkeypatch):
    """Kind of fault: a file with a part of the tasks looks complete."""
    TaskFactory.create_batch(3, status=Status.FAILED)

    assert name_of(admin_client, "") == name_of(admin_client, "status=FAILED") == "tasks.csv"
    monkeypatch.setattr(export, "MAX_EXPORTED_TASKS", 2)
    for query in ("", "status=FAILED"):
        assert name_of(admin_client, query) == "tasks-the-newest-2.csv"
        assert len(json.loads(exported(admin_client, "json", query))) == 2
    monkeypatch.setattr(export, "MAX_EXPORTED_TASKS", 3)
    assert name_of(admin_client, "status=FAILED") == "tasks.csv"


def test_a_bounded_export_reads_only_the_newest_rows_and_names_them_in_the_file_name(
    admin_client, monkeypatch
):
    """Kind of fault: few tasks match, no index finds them, and the export reads all rows."""
    monkeypatch.setattr(bounds, "MAX_SEARCHED_ROWS", 3)
    TaskFactory(status=Status.FAILED, queue="mail")
    TaskFactory.create_batch(2, status=Status.FAILED)
    newest = TaskFactory(status=Status.FAILED, queue="mail")

    (row,) = json.loads(exported(admin_client, "json", "status=FAILED&queue=mail"))

    assert row["id"] == newest.pk
    name = "tasks-among-the-newest-3.csv"
    assert name_of(admin_client, "status=FAILED&queue=mail") == name
    assert name_of(admin_client, "status=FAILED") == "tasks.csv"
    assert len(json.loads(exported(admin_client, "json", "status=FAILED"))) == 4


def test_the_list_says_how_much_a_file_holds_where_that_may_be_a_part(admin_client, monkeypatch):
    TaskFactory(status=Status.FAILED)
    said = "A file has at most 50,000 tasks, the newest."

    for query in ("", "status=FAILED"):
        assert said not in text(admin_client.get(f"{TASKS}?{query}"))
    monkeypatch.setattr("bgtask_admin.tasks.list.CAP", 0)
    for query in ("", "status=FAILED"):
        assert said in text(admin_client.get(f"{TASKS}?{query}"))


def test_export_has_only_matching_tasks(admin_client):
    wanted = TaskFactory(queue="mail")
    TaskFactory()

    (row,) = json.loads(exported(admin_client, "json", "queue=mail"))

    assert (row["id"], row["queue"]) == (wanted.pk, "mail")


def test_export_reads_several_batches_and_stops_at_its_limit(admin_client, monkeypatch):
    monkeypatch.setattr(export, "BATCH_ROWS", 2)
    TaskFactory.create_batch(5)
    assert len(json.loads(exported(admin_client, "json"))) == 5

    monkeypatch.setattr(export, "MAX_EXPORTED_TASKS", 3)

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
        ",".join([*export.COLUMNS, "error_message", "arguments"]) + "\r\n",
    )


def test_spreadsheet_reads_the_stored_values(admin_client):
    """Kind of fault: Excel guesses the encoding, or cuts a cell that is too long."""
    TaskFactory(
        verbose_name="Köln", task_name="🙂", task_params=json.dumps([[], {"text": "x" * 40_000}])
    )

    (row,) = table_of(admin_client)

    assert (row["verbose_name"], row["task_name"]) == ("Köln", "🙂")
    assert exported(admin_client, "csv").startswith("\ufeffid,")
    assert len(row["arguments"]) == 32_767
    assert row["arguments"].endswith("x…")


@pytest.mark.parametrize("text", ["🙂" * 16_384, "x" + "🙂" * 16_384], ids=["even", "odd"])
def test_a_cell_is_cut_where_excel_cuts_it(admin_client, text):
    """Kind of fault: Excel counts the code units of UTF-16, and an emoji has two."""
    TaskFactory(verbose_name="long", task_params=json.dumps([[], {"text": text}]))

    (row,) = table_of(admin_client)

    assert len(row["arguments"].encode("utf-16-le")) // 2 in (32_766, 32_767)
    assert row["arguments"].endswith("🙂…")


@pytest.mark.parametrize("form", ["csv", "json"])
def test_export_streams_under_asgi(async_client, admin_user, form, monkeypatch):
    """Kind of fault: the server reads the whole file before it sends the first part."""
    monkeypatch.setattr(export, "BATCH_ROWS", 2)
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


def test_failed_tasks_are_exported_with_their_message(admin_client):
    TaskFactory(status=Status.FAILED, error_class="KeyError", error_message="'name'\nsee ticket 7")
    TaskFactory()

    _, failed = json.loads(exported(admin_client, "json"))

    assert failed["error_message"] == "'name'\nsee ticket 7"
    assert [row["error_message"] for row in table_of(admin_client)] == ["", "'name'\nsee ticket 7"]
