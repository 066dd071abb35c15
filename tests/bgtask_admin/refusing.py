"""A database that refuses a change, by a trigger of its own."""

from __future__ import annotations

from django.db import connections


class refused:  # noqa: N801  # Read as a sentence.
    """A database that refuses to change this column, of rows that fulfil the condition."""

    def __init__(self, model, column, where="1 = 1"):
        self.connection = connections[model.objects.all().db]
        self.table, self.column, self.where = model._meta.db_table, column, where

    def __enter__(self):
        quoted = f"BEFORE UPDATE ON {self.table} FOR EACH ROW"
        changed = f"NEW.{self.column} <> OLD.{self.column} AND {self.where}"
        statements = {
            "sqlite": [
                f"CREATE TRIGGER refused {quoted} WHEN {changed} "
                "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            ],
            "mysql": [
                f"CREATE TRIGGER refused {quoted} BEGIN IF {changed} THEN "
                "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused'; END IF; END"
            ],
            "postgresql": [
                "CREATE FUNCTION refuse() RETURNS trigger AS "
                "'BEGIN RAISE EXCEPTION ''refused''; END' LANGUAGE plpgsql",
                f"CREATE TRIGGER refused {quoted} WHEN ({changed}) EXECUTE FUNCTION refuse()",
            ],
        }[self.connection.vendor]
        self._execute(statements)

    def __exit__(self, *error):
        if self.connection.vendor == "postgresql":
            self._execute([f"DROP TRIGGER refused ON {self.table}", "DROP FUNCTION refuse()"])
        else:
            self._execute(["DROP TRIGGER refused"])

    def _execute(self, statements):
        with self.connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
