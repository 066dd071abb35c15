"""Test unique tasks and schedules with tasks of Django's API."""

from __future__ import annotations

from typing import Any

import pytest

from bgtask import AlreadyThere, InvalidOption, background, recurring
from bgtask.backend import api, task_options
from bgtask.db import DatabaseNow
from bgtask.models import Schedule, Slot, Task
from bgtask.schedules import declarations, declaring
from bgtask.schedules.fire import fire_due
from bgtask.testing import run_due
from tests.bgtask.backend import jobs
from tests.bgtask.backend.signal_log import recorded

pytestmark = pytest.mark.django_db

task: Any = jobs.task


@task_options(unique=True)
@task
def reindex(product_id, deep=False):
    return product_id


@task_options(unique="{product_id}", on_conflict="replace")
@task(takes_context=True)
def reprice(context, product_id, reason=""):
    return [context.attempt, product_id, reason]


@background(name=f"{__name__}.shared", unique="shared")
def shared():
    pass


@task_options(unique="shared")
@task
def shares():
    pass


@task
def nightly(kind="all"):
    return kind


def plain(number):
    pass


def other(number):
    pass


def test_a_second_call_returns_the_result_of_the_task_that_is_there():
    first = reindex.enqueue(7)
    second = reindex.enqueue(product_id=7, deep=False)
    assert second.id == first.id
    assert second.status == api.TaskResultStatus.READY
    assert Task.objects.count() == 1
    run_due()
    assert reindex.enqueue(7).id != first.id


def test_the_context_is_no_parameter_of_the_key_and_replacing_changes_the_result():
    first = reprice.enqueue("a", reason="old")
    second = reprice.enqueue("a", reason="new")
    assert second.id == first.id
    assert second.kwargs == {"reason": "new"}
    run_due()
    first.refresh()
    assert first.return_value == [1, "a", "new"]


def test_no_signal_is_sent_for_a_call_that_is_not_stored():
    with recorded() as log:
        reindex.enqueue(7)
        reindex.enqueue(7)
    assert len(log) == 1


def test_a_background_function_with_the_same_key_has_no_result():
    shared()
    with pytest.raises(AlreadyThere, match="has no result"):
        shares.enqueue()


def test_options_that_do_not_fit_are_refused_where_the_task_is_defined():
    options = task_options(unique=["nothing"])
    with pytest.raises(InvalidOption, match="'nothing', which is no parameter"):
        options(task(plain))
    below = options(other)
    with pytest.raises(api.InvalidTask, match="'nothing', which is no parameter"):
        task(below)


@pytest.fixture
def declared(monkeypatch):
    monkeypatch.setattr(declarations, "_declarations", {})
    recurring(cron="0 3 * * *", kwargs={"kind": "some"})(nightly)
    declaring.declare()
    Schedule.objects.update(next_at=DatabaseNow(-1))
    return Schedule.objects.get()


def test_a_task_can_recur(declared):
    assert declared.key == declared.task_name == nightly.module_path
    with recorded() as log:
        fire_due()
    assert len(log) == 1
    (row,) = run_due()
    assert (row.backend, row.return_value) == ("default", '"some"')
    assert api.task_backends["default"].get_result(str(row.result_id)).return_value == "some"
    assert Slot.objects.get().task == row.pk


def test_parameters_of_a_schedule_are_checked_against_the_task():
    with pytest.raises(TypeError, match="unexpected keyword argument 'what'"):
        recurring(every=60, kwargs={"what": 1})(nightly)
