"""Large batches are bounded by bytes, so that no statement is larger than the database takes."""

from __future__ import annotations

import logging

import pytest
from django.db import connection, transaction

from bgtask.db import operations
from bgtask.exceptions import InvalidParameters
from bgtask.lifecycle.claim import claim_queue
from bgtask.lifecycle.finish import finish_attempts
from bgtask.models import Attempt, Task, Worker
from bgtask.worker.completer import Completer
from tests.bgtask.lifecycle.outcomes import failure, success
from tests.helpers import eventually
from tests.tasks import noop

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def packet():
    """Set MariaDB's limit for new connections; ``packet(1 << 20)``."""
    if connection.vendor != "mysql":
        pytest.skip("only MariaDB and MySQL have such a limit")
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@global.max_allowed_packet")
        (before,) = cursor.fetchone()

    def set_to(size):
        with connection.cursor() as cursor:
            cursor.execute("SET GLOBAL max_allowed_packet = %s", [size])
        connection.close()

    yield set_to
    set_to(before)


def claim(count):
    noop.enqueue_many([()] * count)
    return claim_queue(Worker.register(), "default", count)


@pytest.mark.parametrize(("count", "length"), [(1_000, 20_000), (100, 200_000)])
def test_many_tasks_with_large_parameters_are_stored(count, length):
    with transaction.atomic():
        before = noop()
        assert noop.enqueue_many([("x" * length,) for _ in range(count)]) == count

    assert Task.objects.count() == count + 1
    assert Task.objects.filter(pk=before.pk).exists()


@pytest.mark.parametrize("size", [1 << 20, 64 << 10])
def test_many_tasks_are_stored_by_a_server_that_takes_only_small_statements(packet, size):
    packet(size)

    # Quotation marks are escaped, and so are sent as two characters each.
    assert noop.enqueue_many([('"' * 4_000,) for _ in range(300)]) == 300
    assert noop.using(queue="q" * 100, priority=7).enqueue_many([()] * 3_000) == 3_000


@pytest.fixture
def limit(monkeypatch):
    """Set the limit of bgtask itself, for databases that would accept larger statements."""
    if connection.vendor == "mysql":
        pytest.skip("MariaDB and MySQL have a limit of their own")

    def set_to(size):
        monkeypatch.setattr(operations, "STATEMENT_BYTES", size)

    return set_to


def test_many_tasks_are_stored_by_statements_within_the_limit(limit):
    limit(64 << 10)
    sizes = []

    def measure(run, sql, params, *args):
        if "INSERT INTO" in sql:
            sizes.append(len(sql) + len(repr(params)))
        return run(sql, params, *args)

    with connection.execute_wrapper(measure):
        assert noop.enqueue_many([("x" * 20_000,) for _ in range(10)]) == 10

    assert len(sizes) == 4
    assert max(sizes) <= 64 << 10


@pytest.mark.parametrize("many", [False, True])
def test_parameters_larger_than_the_limit_are_refused_at_the_call(limit, many):
    limit(64 << 10)
    with pytest.raises(InvalidParameters, match="a statement of 65,536 bytes"):
        noop.enqueue_many([("x" * 100_000,)]) if many else noop("x" * 100_000)

    assert not Task.objects.exists()


@pytest.mark.parametrize("many", [False, True])
def test_parameters_larger_than_a_statement_are_refused_at_the_call(packet, many):
    packet(64 << 10)
    with transaction.atomic():
        before = noop()
        with pytest.raises(InvalidParameters, match=r"max_allowed_packet, which is 65,536 bytes"):
            noop.enqueue_many([("x" * 100_000,)]) if many else noop("x" * 100_000)

    assert Task.objects.get().pk == before.pk


def test_outcomes_with_large_return_values_are_written_together(packet):
    packet(1 << 20)
    claimed = claim(60)
    # Different ones: a value that all outcomes share is sent only once.
    values = ['"' + "é" * 200_000 + f'{number}"' for number in range(60)]

    accepted = finish_attempts(
        [success(task, return_value=value) for task, value in zip(claimed, values, strict=True)]
    )

    assert set(accepted.values()) == {"SUCCESSFUL"}
    assert len(accepted) == 60
    assert set(Task.objects.values_list("return_value", flat=True)) == set(values)


@pytest.mark.slow
def test_many_large_outcomes_are_written():
    for _ in range(2):
        claimed = claim(300)
        accepted = finish_attempts(
            [success(task, return_value='"' + "x" * 250_000 + f'{task.pk}"') for task in claimed]
        )
        assert len(accepted) == 300


def test_failures_with_long_tracebacks_are_written_with_their_history(packet):
    packet(64 << 10)
    claimed = claim(40)
    outcomes = [failure(task) for task in claimed]
    for outcome in outcomes:
        outcome.failure = _long_failure()

    accepted = finish_attempts(outcomes)

    assert len(accepted) == Attempt.objects.count() == 40
    assert set(Task.objects.values_list("last_error", flat=True)) == {_long_failure().traceback}


def test_outcome_larger_than_a_statement_is_replaced_by_an_error(packet, caplog):
    packet(64 << 10)
    large, small = claim(2)
    completer = Completer(lambda accepted, fenced: None, is_idle=lambda: False)
    completer.start()
    try:
        with caplog.at_level(logging.ERROR, "bgtask"):
            completer.put(success(large, return_value='"' + "x" * 100_000 + '"'))
            completer.put(success(small, return_value='"small"'))
            eventually(lambda: Task.objects.succeeded().count() == 2, timeout=60)
    finally:
        assert completer.stop(10)

    assert Task.objects.get(pk=large.pk).return_value is None
    assert Task.objects.get(pk=small.pk).return_value == '"small"'
    assert "max_allowed_packet, which is 65,536 bytes" in caplog.text


def _long_failure():
    from dataclasses import replace

    from tests.bgtask.lifecycle.outcomes import FAILURE

    return replace(FAILURE, traceback="'\n" * 8_000)
