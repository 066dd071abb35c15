"""Test that a function is called again whose transaction was rolled back to end a deadlock."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest
from django.db import OperationalError, connection, transaction

from bgtask.db import again_after_deadlock
from bgtask.models import Task
from tests.factories import TaskFactory
from tests.threads import all_at_once

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.vendor("postgresql", "mysql")
def test_two_transactions_that_lock_rows_in_opposite_order_both_end(caplog):
    first, second = (TaskFactory().pk for _ in range(2))
    both_have_one = threading.Barrier(2, timeout=30)

    def move(*ids):
        with transaction.atomic():
            for number, pk in enumerate(ids):
                task = Task.objects.select_for_update().get(pk=pk)
                task.priority += 1
                task.save(update_fields=["priority"])
                if number == 0:
                    with suppress(threading.BrokenBarrierError):  # The second try meets nobody.
                        both_have_one.wait()
                    both_have_one.abort()
        return "done"

    with caplog.at_level("INFO", logger="bgtask"):
        ends = all_at_once(
            lambda: again_after_deadlock(connection, lambda: move(first, second)),
            lambda: again_after_deadlock(connection, lambda: move(second, first)),
        )
    assert ends == ["done", "done"]
    assert set(Task.objects.values_list("priority", flat=True)) == {2}
    assert "The database has ended a deadlock" in caplog.text


def test_within_a_transaction_of_the_caller_a_function_is_called_once():
    calls = []

    def fail():
        calls.append(1)
        raise OperationalError(1213, "Deadlock found when trying to get lock")

    with pytest.raises(OperationalError), transaction.atomic():
        again_after_deadlock(connection, fail)
    assert len(calls) == 1
