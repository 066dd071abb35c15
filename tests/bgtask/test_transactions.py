"""A task comes into being with the caller's transaction, and not otherwise."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from django.db import connections, transaction

from bgtask.models import Task
from bgtask.testing import run_due
from tests.tasks import add, noop


class KeepTasksInOther:
    """A router for projects that give the queue a database of its own."""

    def db_for_write(self, model, **hints):
        return "other" if model._meta.app_label == "bgtask" else None


@pytest.fixture
def tasks_in_other(settings):
    settings.DATABASE_ROUTERS = [KeepTasksInOther()]


@contextmanager
def rolled_back(using="default"):
    """Open a transaction, and roll it back at the end."""
    with transaction.atomic(using=using):
        yield
        transaction.set_rollback(True, using=using)


@pytest.mark.django_db(transaction=True)
def test_a_call_in_a_transaction_that_rolls_back_leaves_no_task():
    with rolled_back():
        add(1, 2)
        noop.enqueue_many([(1,), (2,)])

    assert not Task.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_call_in_a_transaction_is_seen_by_others_with_its_commit():
    with transaction.atomic():
        task = add(1, 2)
        seen_before = _seen_by_another_connection()

    assert task.pk is not None
    assert seen_before == 0
    assert _seen_by_another_connection() == 1


@pytest.mark.django_db(transaction=True)
def test_a_call_in_a_savepoint_that_rolls_back_leaves_no_task():
    with transaction.atomic():
        kept = add(1, 2)
        with rolled_back():
            add(3, 4)

    assert list(Task.objects.values_list("pk", flat=True)) == [kept.pk]


@pytest.mark.django_db(transaction=True)
def test_enqueue_many_stores_all_or_none():
    with pytest.raises(TypeError):
        noop.enqueue_many([(number,) for number in range(1_500)] + [(object(),)])

    assert not Task.objects.exists()


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_a_call_in_a_transaction_of_another_database_waits_for_its_commit():
    with transaction.atomic(using="other"):
        task = add(1, 2)
        noop.enqueue_many([(1,), (2,)])

        assert task.pk is None
        assert not Task.objects.exists()

    assert Task.objects.count() == 3
    assert Task.objects.get(pk=task.pk).params() == ([1, 2], {})


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_a_call_in_a_transaction_of_another_database_that_rolls_back_leaves_no_task():
    with rolled_back(using="other"):
        add(1, 2)
        noop.enqueue_many([(1,), (2,)])

    assert not Task.objects.exists()


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_parameters_that_are_not_json_are_refused_at_the_call_even_before_a_commit():
    with transaction.atomic(using="other"):
        with pytest.raises(TypeError, match=r"args\[0\]"):
            add(object(), 2)
        with pytest.raises(TypeError, match=r"^Item 1: args\[0\]"):
            noop.enqueue_many([(1,), (object(),)])

    assert not Task.objects.exists()


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_transaction_of_the_queue_database_decides_if_both_are_open():
    with transaction.atomic(using="other"), transaction.atomic():
        task = add(1, 2)
        stored_at_once = task.pk is not None

    assert stored_at_once
    assert Task.objects.count() == 1


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
@pytest.mark.usefixtures("tasks_in_other")
def test_tasks_live_where_the_router_writes_them():
    task = add(1, 2)

    run_due()

    assert not Task.objects.using("default").exists()
    stored = Task.objects.using("other").get()
    assert (stored.pk, stored.status, stored.return_value) == (task.pk, "SUCCESSFUL", "3")


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
@pytest.mark.usefixtures("tasks_in_other")
def test_a_call_in_a_transaction_of_the_project_waits_for_it_when_the_queue_is_elsewhere():
    with transaction.atomic():
        add(1, 2)
        stored_before = Task.objects.count()
    with rolled_back():
        add(3, 4)

    assert stored_before == 0
    assert [task.params() for task in Task.objects.all()] == [([1, 2], {})]


def _seen_by_another_connection() -> int:
    """Return the number of tasks that another connection sees.

    It sees only what is committed. A connection sees its own changes before that.
    """
    other = connections["default"].copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM bgtask_task")
            return int(cursor.fetchone()[0])
    finally:
        other.close()
