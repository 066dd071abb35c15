"""Test that each database stores the unusual errors of real tasks in a readable form."""

from __future__ import annotations

import sys

import pytest
from django.db import connection

from bgtask import background, registry
from bgtask.failures import MAX_MESSAGE_CHARACTERS, MAX_TRACEBACK_CHARACTERS
from bgtask.lifecycle.claim import claim_these
from bgtask.lifecycle.finish import finish_attempts
from bgtask.models import Task
from bgtask.testing import run_due
from bgtask.worker.executor import execute
from tests.bgtask.test_failures import HOSTILE, endless
from tests.factories import TaskFactory, WorkerFactory
from tests.tasks import fail


@background
def raise_hostile(name):
    raise HOSTILE[name]()


@background
def leave():
    sys.exit("leaving\x00early")


@background
def interrupt():
    raise KeyboardInterrupt


@background
def recurse():
    endless()


@background
def speak(text):
    raise ValueError(text)


@background
def log_in(user, password):
    raise ConnectionError(f"postgres://{user}:{password}@db/app refused password={password!r}")


@background
def return_what_json_has_not():
    return {1, 2}


@background
def stop_iteration():
    raise StopIteration


@pytest.mark.django_db
@pytest.mark.parametrize("name", sorted(HOSTILE.keys() - {"interrupt"}))
def test_a_hostile_error_is_stored_and_the_task_is_tried_again(name):
    task = raise_hostile(name)

    run_due(raise_errors=False)

    task.refresh_from_db()
    attempt = task.history.get()
    assert (task.status, task.attempts) == ("SCHEDULED", 1)
    assert task.error_class == attempt.error_class != ""
    assert task.last_error == attempt.traceback != ""
    assert task.error_message == attempt.message is not None
    assert len(task.last_error) <= MAX_TRACEBACK_CHARACTERS
    assert len(attempt.message) <= MAX_MESSAGE_CHARACTERS


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("function", "error_class", "message"),
    [
        (leave, "SystemExit", "leaving\ufffdearly"),
        (recurse, "RecursionError", "maximum recursion depth exceeded"),
        (stop_iteration, "StopIteration", ""),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_exceptions_that_end_a_process_fail_only_the_task(function, error_class, message):
    task = function()

    run_due(raise_errors=False)

    task.refresh_from_db()
    assert (task.status, task.error_class) == ("SCHEDULED", error_class)
    assert task.history.get().message.startswith(message)


@pytest.mark.django_db
def test_a_keyboard_interrupt_fails_only_the_task_in_a_worker():
    """``run_due`` raises it instead, because a user may want to end the tests."""
    task = interrupt()
    (claimed,) = claim_these(Task.objects.ready(), WorkerFactory())

    finish_attempts([execute(claimed)])

    task.refresh_from_db()
    assert (task.status, task.error_class) == ("SCHEDULED", "KeyboardInterrupt")


@pytest.mark.django_db
def test_any_character_is_stored():
    text = "".join(map(chr, [*range(0x20), 0xA0, 0x2028, 0xFFFF, 0x1F600, 0x10FFFF])) + "\ud83d"
    task = speak(text)

    run_due(raise_errors=False)

    stored = text.replace("\x00", "\ufffd").replace("\ud83d", "\\ud83d")
    task.refresh_from_db()
    assert task.error_message == task.history.get().message == stored


@pytest.mark.django_db
def test_secrets_reach_neither_the_row_nor_the_log(caplog):
    task = log_in("ada", password="hunter2")

    run_due(raise_errors=False)

    task.refresh_from_db()
    attempt = task.history.get()
    assert "postgres://ada:********@db/app refused" in task.last_error
    for written in (
        task.last_error, task.error_message, attempt.message, attempt.traceback, caplog.text
    ):  # fmt: skip
        assert "hunter2" not in written


@pytest.mark.django_db
def test_return_value_that_is_not_json_is_logged_and_not_a_failure(caplog):
    task = return_what_json_has_not()

    run_due()

    task.refresh_from_db()
    assert (task.status, task.return_value) == ("SUCCESSFUL", None)
    assert "its return value is not kept" in caplog.text


@pytest.mark.django_db
@pytest.mark.parametrize("params", ["nonsense", "[[], {}", "{}", "[[NaN], {}]", "[" * 5_000])
def test_a_row_broken_by_hand_fails_alone_as_malformed(params):
    broken = TaskFactory(task_name=speak.name, task_params=params)
    neighbours = [TaskFactory() for _ in range(3)]

    run_due(raise_errors=False)

    broken.refresh_from_db()
    assert (broken.status, broken.error_class) == ("FAILED", "malformed")
    assert broken.last_error.startswith("task_params")
    assert broken.error_message == broken.history.get().message == broken.last_error
    assert broken.history.get().outcome == "failed"
    assert {Task.objects.get(pk=task.pk).status for task in neighbours} == {"SUCCESSFUL"}


@background
def read_another(pk):
    return Task.objects.get(pk=pk).params()


@background
def find_another(name):
    return registry.find(name)


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ["MalformedTask", "UnknownTask"])
def test_errors_of_the_queue_within_a_task_are_ordinary_errors(kind):
    broken = TaskFactory(task_params="nonsense", status="FAILED")
    task = read_another(broken.pk) if kind == "MalformedTask" else find_another("nobody")

    run_due(raise_errors=False)

    task.refresh_from_db()
    assert (task.status, task.error_class) == ("SCHEDULED", f"bgtask.exceptions.{kind}")
    assert task.last_error.startswith("Traceback")
    assert __file__ in task.last_error


# What the database refuses after all

REFUSE = {
    "sqlite": """
        CREATE TRIGGER refuse BEFORE UPDATE ON bgtask_task WHEN NEW.last_error LIKE '%unspeakable%'
        BEGIN SELECT RAISE(ABORT, 'not in this house'); END
    """,
    "postgresql": """
        CREATE FUNCTION refuse() RETURNS trigger AS $$
        BEGIN RAISE EXCEPTION 'not in this house' USING ERRCODE = 'data_exception'; END
        $$ LANGUAGE plpgsql;
        CREATE TRIGGER refuse BEFORE UPDATE ON bgtask_task FOR EACH ROW
        WHEN (NEW.last_error LIKE '%unspeakable%') EXECUTE FUNCTION refuse()
    """,
    "mysql": """
        CREATE TRIGGER refuse BEFORE UPDATE ON bgtask_task FOR EACH ROW
        IF NEW.last_error LIKE '%unspeakable%' THEN
            SIGNAL SQLSTATE '22000' SET MESSAGE_TEXT = 'not in this house';
        END IF
    """,
}


@pytest.fixture
def _refusing_database(transactional_db):
    """Make the database refuse a certain word in an error."""
    with connection.cursor() as cursor:
        cursor.execute(REFUSE[connection.vendor])
    yield
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("DROP FUNCTION refuse() CASCADE")
        else:
            cursor.execute("DROP TRIGGER refuse")


@pytest.mark.acceptance
@pytest.mark.usefixtures("_refusing_database")
def test_refused_outcome_is_replaced_by_an_error(process_tasks):
    refused = fail("unspeakable")
    neighbours = [fail("sayable"), *[TaskFactory() for _ in range(5)]]

    worker = process_tasks("--drain")

    assert worker.wait(timeout=60) == 0, worker.output()
    refused.refresh_from_db()
    assert (refused.status, refused.attempts) == ("SCHEDULED", 1)
    assert refused.error_class == "bgtask.Unstorable"
    assert refused.last_error.startswith("The task failed, and the database refused the text")
    assert refused.error_message == refused.last_error
    assert "not in this house" in worker.output()
    statuses = [Task.objects.get(pk=task.pk).status for task in neighbours]
    assert statuses == ["SCHEDULED", *["SUCCESSFUL"] * 5]
