from __future__ import annotations

from datetime import timedelta
from urllib.parse import quote

import pytest
from django.http import QueryDict
from django.utils import timezone

from bgtask.db import DatabaseNow
from bgtask.models import Task
from bgtask.status import Status
from bgtask_admin.tasks.filters import NAMES
from bgtask_admin.tasks.selection import InvalidSelection, Selection
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db


def found(query: str) -> set[int]:
    return {task.pk for task in Selection.parse(QueryDict(query)).tasks()}


@pytest.mark.parametrize(
    ("query", "columns"),
    [
        ("status=FAILED", {"status": Status.FAILED}),
        ("queue=mail", {"queue": "mail"}),
        ("task=shop.send", {"task_name": "shop.send"}),
        ("error_class=KeyError", {"status": Status.FAILED, "error_class": "KeyError"}),
        ("fingerprint=abc", {"status": Status.FAILED, "error_fingerprint": "abc"}),
        ("attempts_min=3", {"status": Status.FAILED, "attempts": 3}),
        ("attempts_min=2&attempts_max=4", {"status": Status.FAILED, "attempts": 3}),
        ("worker=web-1:4121", {"last_worker": "web-1:4121"}),
        (
            "status=FAILED&error=REFUSED&since=1h",
            {"status": Status.FAILED, "last_error": "refused"},
        ),
        ("argument=customer:42", {"task_params": '[[], {"customer": 42, "other": 1}]'}),
        ("argument=customer:42", {"task_params": '[[], {"customer": 42}]'}),
        ('argument=customer:"42"', {"task_params": '[[], {"customer": "42"}]'}),
        ("argument=customer=42", {"task_params": '[[], {"customer": 42}]'}),
        ("argument=url=http://x", {"task_params": '[[], {"url": "http://x"}]'}),
        ("argument=name:Zo%C3%AB", {"task_params": '[[], {"name": "Zo\\u00eb"}]'}),
    ],
)
def test_each_filter_finds_only_its_tasks(query, columns):
    wanted = TaskFactory(**columns)
    TaskFactory(status=Status.SUCCESSFUL, task_params='[[], {"customer": 421}]')

    assert found(query) == {wanted.pk}


@pytest.mark.parametrize(
    ("status", "column"),
    [
        (Status.FAILED, "finished_at"),
        (Status.SUCCESSFUL, "finished_at"),
        (Status.READY, "run_at"),
        (Status.RUNNING, "locked_at"),
        (Status.HELD, "enqueued_at"),
    ],
)
def test_window_applies_to_the_time_column_of_the_status(status, column):
    recent = TaskFactory(status=status, **{column: DatabaseNow(-60)})
    TaskFactory(status=status, **{column: DatabaseNow(-7200)})

    assert found(f"status={status}&since=1h") == {recent.pk}


def test_window_has_a_start_and_an_end():
    before = quote((timezone.now() - timedelta(hours=1)).isoformat())
    old = TaskFactory(status=Status.FAILED, finished_at=DatabaseNow(-7200))
    TaskFactory(status=Status.FAILED)

    assert found(f"status=FAILED&since=3h&until={before}") == {old.pk}


def test_names_are_compared_exactly():
    TaskFactory(queue="Mail")

    assert found("queue=mail") == set()


@pytest.mark.parametrize(
    "query",
    [
        "status=FAILD",
        "stauts=FAILED",
        "status=FAILED&status=READY",
        "since=yesterday",
        "since=2h&until=3h",
        "since=0001-01-01T00:00:00%2B23:00",
        "until=9999-12-31T23:59:59-10:00",
        "since=700000d",
        "attempts_min=many",
        "id=1.5",
        "ids=1,x",
        "ids=" + ",".join(map(str, range(1_001))),
        "argument=customer",
        "argument=customer:",
        "argument=:42",
        "argument=customer:" + "4" * 300,
        "q=args.customer:",
        "q=args.customer:42" + "+" * 500 + "status:failed",
        "error=timeout",
        "error=timeout&status=FAILED",
        "error=timeout&since=1h",
        "queue=%00",
        "q=quere:mail",
        "id=99999999999999999999",
    ],
)
def test_invalid_filter_is_refused_instead_of_ignored(query):
    TaskFactory()

    with pytest.raises(InvalidSelection):
        Selection.parse(QueryDict(query))


@pytest.mark.parametrize("query", ["", "queue=", "status=+", "q="])
def test_action_on_an_empty_filter_is_refused(query):
    with pytest.raises(InvalidSelection, match="Choose a filter"):
        Selection.parse_narrow(QueryDict(query))


def test_relative_time_is_stored_as_a_fixed_time():
    selection = Selection.parse({"status": "FAILED", "since": "24h"})

    again = Selection.parse(selection.data)

    assert again.cleaned["since"] == selection.cleaned["since"]


def test_selection_describes_itself():
    selection = Selection.parse({"queue": "mail", "status": "FAILED", "error_class": "KeyError"})

    assert selection.in_words() == "Failed · queue mail · error KeyError"
    assert Selection.parse({}).in_words() == "All tasks"


def test_typed_status_overrides_the_tab():
    selection = Selection.parse({"status": "READY", "q": "failed"})

    assert selection.status == Status.FAILED


def test_empty_selection_shows_the_list():
    TaskFactory()

    assert Selection.parse({}).tasks().count() == Task.objects.count()


@pytest.mark.parametrize("key", sorted(NAMES))
@pytest.mark.parametrize("name", ["mail ", " mail", "\tmail"])
def test_a_name_with_blanks_at_an_end_is_another_name(key, name):
    """Kind of fault: a filter finds, and an action changes, tasks whose name has other blanks."""
    column = {"task": "task_name", "worker": "last_worker", "fingerprint": "error_fingerprint"}
    column["unique"] = "unique_key"
    column = column.get(key, key)
    wanted = TaskFactory(status=Status.FAILED, **{column: name})
    TaskFactory(status=Status.FAILED, **{column: "mail"})

    assert found(f"{key}={quote(name)}") == {wanted.pk}
    assert Selection.parse(Selection.parse({key: name}).data).data[key] == name


def test_a_selection_whose_filter_is_no_longer_valid_selects_nothing():
    TaskFactory()

    with pytest.raises(InvalidSelection, match="not valid any more"):
        Selection({"status": "FAILD"}, {}).candidates()


@pytest.mark.parametrize("text", ['queue:""', 'task:""', 'worker:""', '""', 'since:""'])
def test_a_search_word_without_a_value_is_refused(text):
    """Kind of fault: django-filter drops a filter, and the rest means every task."""
    with pytest.raises(InvalidSelection):
        Selection.parse({"q": text})
