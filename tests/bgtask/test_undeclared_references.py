"""Test pruning with foreign keys that the database knows and no model declares."""

from __future__ import annotations

from itertools import pairwise

import pytest
from django.db import connection, transaction

from bgtask.models import Attempt
from tests.bgtask.referring import (
    finished,
    ids,
    insert_service_row,
    prune,
    service_table,
)
from tests.factories import AttemptFactory

pytestmark = pytest.mark.django_db(transaction=True)


class TestUndeclaredForeignKeys:
    """Kind of fault: a table of another app keeps a batch, and is not named."""

    RULES = (
        pytest.param("", id="plain"),
        pytest.param("ON DELETE RESTRICT", id="restrict"),
        pytest.param(
            "DEFERRABLE INITIALLY DEFERRED",
            id="deferred",
            marks=pytest.mark.vendor("sqlite", "postgresql"),
        ),
    )

    @pytest.mark.parametrize("rest", RULES)
    def test_undeclared_foreign_keys_keep_only_their_tasks(self, rest, pruned):
        with service_table(rest):
            tasks = finished(5)
            AttemptFactory(task=tasks[3])
            insert_service_row(tasks[3])

            assert pruned() == (4, {"service_row": 1})
            assert ids() == {tasks[3].pk}
            assert Attempt.objects.count() == 1

    def test_undeclared_foreign_keys_can_cascade(self, pruned):
        with service_table("ON DELETE CASCADE"):
            tasks = finished(2)
            insert_service_row(tasks[0])

            assert pruned() == (2, {})

    @pytest.mark.parametrize(
        "rule",
        [
            pytest.param("", id="at once"),
            pytest.param(
                "DEFERRABLE INITIALLY DEFERRED",
                id="deferred",
                marks=pytest.mark.vendor("sqlite", "postgresql"),
            ),
        ],
    )
    @pytest.mark.parametrize("depth", [1, 2])
    def test_undeclared_foreign_keys_behind_a_cascade_keep_only_their_tasks(
        self, rule, depth, pruned
    ):
        """Kind of fault: a foreign key that is checked at COMMIT keeps the whole batch."""
        kind = "integer" if connection.vendor == "sqlite" else "bigint"
        names = ["bgtask_task", *(f"service_{number}" for number in range(depth + 1))]
        with connection.cursor() as cursor:
            for number, (to, name) in enumerate(pairwise(names)):
                cursor.execute(
                    f"CREATE TABLE {name} (id {kind} PRIMARY KEY, FOREIGN KEY (id) REFERENCES {to} "
                    f"(id) {rule if number == depth else 'ON DELETE CASCADE'})"
                )
        try:
            tasks = finished(5)
            for name in names[1:]:
                with connection.cursor() as cursor:
                    cursor.execute(f"INSERT INTO {name} VALUES (%s)", [tasks[3].pk])

            words = names[-1]
            if connection.vendor == "sqlite" and not rule:  # SQLite names no table then.
                words = "error: IntegrityError: FOREIGN KEY constraint failed"
            assert pruned() == (4, {words: 1})
            assert ids() == {tasks[3].pk}
        finally:
            with connection.cursor() as cursor:
                for name in reversed(names[1:]):
                    cursor.execute(f"DROP TABLE {name}")

    @pytest.mark.vendor("postgresql")
    def test_undeclared_foreign_keys_of_a_partitioned_table_are_read_once(self):
        with connection.cursor() as cursor:
            cursor.execute(
                "CREATE TABLE service_row (task bigint REFERENCES bgtask_task (id)) "
                "PARTITION BY HASH (task)"
            )
            cursor.execute(
                "CREATE TABLE service_part PARTITION OF service_row "
                "FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
            )
        try:
            tasks = finished(2)
            insert_service_row(tasks[0])

            assert prune() == (1, {"service_row": 1})
        finally:
            with connection.cursor() as cursor:
                cursor.execute("DROP TABLE service_row")

    @pytest.mark.vendor("postgresql")
    def test_unreadable_referring_tables_keep_only_their_tasks(self):
        with service_table("DEFERRABLE INITIALLY DEFERRED"), connection.cursor() as cursor:
            tasks = finished(5)
            insert_service_row(tasks[3])
            cursor.execute("CREATE ROLE limited")
            cursor.execute("GRANT SELECT, UPDATE, DELETE ON bgtask_task, bgtask_attempt TO limited")
            try:
                with transaction.atomic():
                    cursor.execute("SET LOCAL ROLE limited")
                    assert prune() == (4, {"service_row": 1})
            finally:
                cursor.execute("DROP OWNED BY limited")
                cursor.execute("DROP ROLE limited")

    @pytest.mark.vendor("postgresql")
    def test_referring_table_of_another_schema_is_named_with_its_schema(self):
        with connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA service")
            cursor.execute("CREATE TABLE service.row (task bigint REFERENCES bgtask_task (id))")
        try:
            tasks = finished(2)
            with connection.cursor() as cursor:
                cursor.execute("INSERT INTO service.row VALUES (%s)", [tasks[0].pk])

            assert prune() == (1, {"service.row": 1})
        finally:
            with connection.cursor() as cursor:
                cursor.execute("DROP SCHEMA service CASCADE")
