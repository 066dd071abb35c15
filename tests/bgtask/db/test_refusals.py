"""Errors about the data and errors about the database are told apart, by each database's codes."""

from __future__ import annotations

import contextlib

import pytest
from django.db import Error, connection
from django.db.utils import DataError, IntegrityError, OperationalError

from bgtask.db import TooLarge, is_about_data
from bgtask.models import Task
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db(transaction=True)

INSERT = (
    "INSERT INTO bgtask_task (task_name, status, run_at, enqueued_at) "
    "VALUES (%s, 'READY', '2030-01-01', '2030-01-01')"
)


def execute(*statements, params=None):
    with connection.cursor() as cursor:
        for statement in statements[:-1]:
            cursor.execute(statement)
        cursor.execute(statements[-1], params)
        return cursor.fetchall() if cursor.description else None


@contextlib.contextmanager
def error_of_the_database():
    with pytest.raises(Error) as caught:
        yield caught
    connection.close()  # The settings of its session go with it.


REFUSED_EVERYWHERE = {
    "null": ("UPDATE bgtask_task SET queue = NULL", None),
    "check": ("UPDATE bgtask_task SET status = 'RUNNING'", None),
    "duplicate": (
        "UPDATE bgtask_task SET id = (SELECT * FROM (SELECT min(id) FROM bgtask_task) AS t)",
        None,
    ),
    "foreign key": (
        "INSERT INTO bgtask_attempt (task_id, token, number, worker, finished_at, outcome, "
        "error_class, message, traceback, error_fingerprint) "
        "VALUES (0, 0, 0, '', '2030-01-01', 'failed', '', '', '', '')",
        None,
    ),
}


@pytest.mark.parametrize("kind", REFUSED_EVERYWHERE)
def test_violated_constraint_is_about_the_data(kind):
    TaskFactory.create_batch(2)

    with error_of_the_database() as caught:
        execute(*REFUSED_EVERYWHERE[kind][:1])
        if connection.vendor == "sqlite":
            connection.check_constraints()  # Foreign keys are checked when a transaction ends.

    assert is_about_data(caught.value)


@pytest.mark.vendor("postgresql", "mysql")
@pytest.mark.parametrize(
    ("column", "value"),
    [("task_name", "x" * 300), ("priority", 2**40), ("run_at", "no date"), ("priority", "ten")],
)
def test_value_out_of_range_of_its_column_is_about_the_data(column, value):
    TaskFactory()

    with error_of_the_database() as caught:
        execute(f"UPDATE bgtask_task SET {column} = %s", params=[value])

    assert is_about_data(caught.value)


@pytest.mark.parametrize("text", ["\ud83d", "\x00"])
def test_a_text_that_cannot_be_encoded_is_about_the_data(text):
    if text == "\x00" and connection.vendor != "postgresql":
        pytest.skip("this database stores NUL")
    with pytest.raises(Exception) as caught:  # noqa: PT011  # Each driver has its own.
        execute(INSERT, params=[text])

    assert is_about_data(caught.value)


@pytest.mark.vendor("sqlite")
def test_number_with_too_many_bits_is_about_the_data():
    with pytest.raises(OverflowError) as caught:
        execute("UPDATE bgtask_task SET priority = %s", params=[2**70])

    assert is_about_data(caught.value)


def test_refusal_by_a_trigger_is_about_the_data():
    refuse = {
        "sqlite": ["CREATE TRIGGER refuse BEFORE UPDATE ON bgtask_task "
                   "BEGIN SELECT RAISE(ABORT, 'no'); END"],
        "postgresql": ["CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION "
                       "'no'; END $$ LANGUAGE plpgsql",
                       "CREATE TRIGGER refuse BEFORE UPDATE ON bgtask_task FOR EACH ROW "
                       "EXECUTE FUNCTION refuse()"],
        "mysql": ["CREATE TRIGGER refuse BEFORE UPDATE ON bgtask_task FOR EACH ROW "
                  "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'"],
    }[connection.vendor]  # fmt: skip
    remove = {
        "postgresql": "DROP FUNCTION refuse() CASCADE",
    }.get(connection.vendor, "DROP TRIGGER refuse")
    TaskFactory()
    execute(*refuse)
    try:
        with error_of_the_database() as caught:
            execute("UPDATE bgtask_task SET priority = 1")
    finally:
        execute(remove)

    assert is_about_data(caught.value)


AWAY_EVERYWHERE = {
    "no table": ["UPDATE bgtask_no_such_table SET status = 'READY'"],
    "no column": ["UPDATE bgtask_task SET no_such_column = 1"],
    "syntax": ["UPDATE UPDATE"],
}
AWAY = {
    "sqlite": {
        "read-only": ["PRAGMA query_only = 1", "UPDATE bgtask_task SET priority = 1"],
        "full": [
            "PRAGMA max_page_count = 1",
            "CREATE TABLE no_room AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL "
            "SELECT i + 1 FROM n WHERE i < 10000) SELECT randomblob(100000) AS b FROM n",
        ],
    },
    "postgresql": {
        "read-only": [
            "SET default_transaction_read_only = on",
            "UPDATE bgtask_task SET priority = 1",
        ],
        "full": [
            "SET temp_file_limit = 0",
            "SET work_mem = '64kB'",
            "SELECT * FROM generate_series(1, 100000) AS n ORDER BY md5(n::text)",
        ],
        "cancelled": ["SET statement_timeout = 50", "SELECT pg_sleep(30)"],
        "connection": ["SELECT pg_terminate_backend(pg_backend_pid())"],
        "disk": ["DO $$ BEGIN RAISE EXCEPTION 'No space left' USING ERRCODE = '53100'; END $$"],
    },
    "mysql": {
        "read-only": ["SET SESSION TRANSACTION READ ONLY", "UPDATE bgtask_task SET priority = 1"],
        "full": [
            "SET max_heap_table_size = 16384",
            "CREATE TEMPORARY TABLE room (t varchar(500)) ENGINE=MEMORY",
            "INSERT INTO room SELECT repeat('x', 500) FROM seq_1_to_1000",
        ],
        "cancelled": ["SET max_statement_time = 0.05", "SELECT sleep(30) FROM seq_1_to_9"],
        "connection": ["KILL CONNECTION_ID()"],
        "too old": ["SIGNAL SQLSTATE '08004' SET MYSQL_ERRNO = 1836, MESSAGE_TEXT = 'read-only'"],
    },
}


@pytest.mark.parametrize(
    "kind", [*AWAY_EVERYWHERE, *sorted({kind for kinds in AWAY.values() for kind in kinds})]
)
def test_temporary_failure_of_the_database_is_not_about_the_data(kind):
    statements = (AWAY_EVERYWHERE | AWAY[connection.vendor]).get(kind)
    if statements is None:
        pytest.skip("another database's")
    TaskFactory()

    with error_of_the_database() as caught:
        execute(*statements)

    assert not is_about_data(caught.value)


@pytest.mark.vendor("sqlite")
def test_locked_database_and_invalid_database_file_are_not_about_the_data(tmp_path):
    other = connection.copy()
    try:
        other.settings_dict = connection.settings_dict | {"OPTIONS": {"timeout": 0}}
        with connection.cursor() as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            with pytest.raises(OperationalError, match="locked") as locked:
                other.cursor().execute("UPDATE bgtask_task SET priority = 1")
            cursor.execute("ROLLBACK")
        other.close()
        (tmp_path / "garbage").write_bytes(b"nonsense" * 1_000)
        other.settings_dict |= {"NAME": str(tmp_path / "garbage")}
        with pytest.raises(Error, match="not a database") as garbage:
            other.cursor().execute("SELECT * FROM sqlite_master")
    finally:
        other.close()

    assert not is_about_data(locked.value)
    assert not is_about_data(garbage.value)


def test_lock_timeout_is_not_about_the_data():
    if connection.vendor == "sqlite":
        pytest.skip("SQLite locks no rows")
    task = TaskFactory()
    other = connection.copy()
    try:
        other.set_autocommit(False)
        other.cursor().execute("SELECT id FROM bgtask_task WHERE id = %s FOR UPDATE", [task.pk])
        wait = {
            "postgresql": "SET lock_timeout = 50",
            "mysql": "SET innodb_lock_wait_timeout = 1",
        }[connection.vendor]
        with error_of_the_database() as caught:
            execute(wait, "UPDATE bgtask_task SET priority = 1")
    finally:
        other.close()

    assert not is_about_data(caught.value)
    assert Task.objects.get().priority == 0


@pytest.mark.parametrize("kind", [OperationalError, Error])
def test_an_error_without_a_code_is_about_the_database(kind):
    assert not is_about_data(kind("server closed the connection unexpectedly"))


@pytest.mark.parametrize("kind", [DataError, IntegrityError, TooLarge])
def test_error_without_a_code_is_about_the_data_if_its_class_is(kind):
    assert is_about_data(kind("refused"))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a bug"), ConnectionError("gone")])
def test_unrelated_error_is_not_about_the_data(error):
    assert not is_about_data(error)
