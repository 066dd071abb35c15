"""Read the database's own foreign keys, including those that no model declares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask.db.sql import marks


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A foreign key of one column."""

    table: str
    column: str
    target_table: str
    target_column: str
    schema: str = ""  # Empty if the name of the table is enough to find it.
    constraint: str = ""
    blocks: bool = True  # Refuses a deletion, unlike ON DELETE CASCADE or SET NULL.
    is_readable: bool = True
    is_deferrable: bool = False
    is_deferred: bool = False

    @property
    def label(self) -> str:
        return f"{self.schema}.{self.table}" if self.schema else self.table


def qualified(connection: BaseDatabaseWrapper, *names: str) -> str:
    return ".".join(connection.ops.quote_name(name) for name in names if name)


def referred(
    connection: BaseDatabaseWrapper, reference: Reference, key: str, values: Sequence[int]
) -> set[int]:
    """Return the values of the column ``key`` in the rows that this foreign key refers to."""
    quote = connection.ops.quote_name
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT DISTINCT t.{quote(key)} FROM {quote(reference.target_table)} t "
            f"JOIN {qualified(connection, reference.schema, reference.table)} r "
            f"ON r.{quote(reference.column)} = t.{quote(reference.target_column)} "
            f"WHERE t.{quote(key)} IN ({marks(values)})",
            list(values),
        )
        return set(chain.from_iterable(cursor.fetchall()))


def postgresql_references(connection: BaseDatabaseWrapper, table: str) -> list[Reference]:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT CASE WHEN pg_table_is_visible(c.oid) THEN '' ELSE n.nspname END,
                   c.relname, a.attname, t.attname, k.conname, k.confdeltype IN ('a', 'r'),
                   has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
                   k.condeferrable, k.condeferred
            FROM pg_constraint k
            JOIN pg_class c ON c.oid = k.conrelid
            JOIN pg_namespace n ON n.oid = c.relnamespace
            JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
            JOIN pg_attribute t ON t.attrelid = k.confrelid AND t.attnum = k.confkey[1]
            WHERE k.contype = 'f' AND k.conparentid = 0 AND k.confrelid = to_regclass(%s)
              AND cardinality(k.conkey) = 1
            """,
            [connection.ops.quote_name(table)],
        )
        return [
            Reference(
                schema=schema,
                table=referring,
                column=column,
                target_table=table,
                target_column=target_column,
                constraint=constraint,
                blocks=blocks,
                is_readable=is_readable,
                is_deferrable=is_deferrable,
                is_deferred=is_deferred,
            )
            for (
                schema, referring, column, target_column, constraint, blocks, is_readable,
                is_deferrable, is_deferred,
            ) in cursor.fetchall()
        ]  # fmt: skip


def sqlite_references(connection: BaseDatabaseWrapper, table: str) -> list[Reference]:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT m.name, f."from", COALESCE(f."to", 'id'), f.on_delete
            FROM sqlite_master m, pragma_foreign_key_list(m.name) f
            WHERE m.type = 'table' AND lower(f."table") = lower(%s)
            """,
            [table],
        )
        return [
            Reference(
                table=referring,
                column=column,
                target_table=table,
                target_column=target_column,
                blocks=on_delete in ("NO ACTION", "RESTRICT"),
            )
            for referring, column, target_column, on_delete in cursor.fetchall()
        ]


def check_on_postgresql(connection: BaseDatabaseWrapper, references: Iterable[Reference]) -> None:
    deferrable = [reference for reference in references if reference.is_deferrable]
    deferred = [reference for reference in deferrable if reference.is_deferred]
    with connection.cursor() as cursor:
        for mode, some in (("IMMEDIATE", deferrable), ("DEFERRED", deferred)):
            names = {
                qualified(connection, reference.schema, reference.constraint) for reference in some
            }
            if names:
                cursor.execute(f"SET CONSTRAINTS {', '.join(sorted(names))} {mode}")
