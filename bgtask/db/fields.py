"""Fields and indexes that behave the same on each database, and the columns that do not yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.ddl_references import Statement


class ExactCharField(models.CharField):
    """
    A CharField whose text is compared exactly, with its case.

    MariaDB and MySQL would otherwise treat "Mail" and "mail" as one queue.
    """

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        parameters = super().db_parameters(connection)
        if connection.vendor == "mysql":
            return {**parameters, "collation": "utf8mb4_bin"}
        return parameters


class _Unicode:
    """
    A text column that can store every character, whatever the default of the database is.

    On MariaDB and MySQL a database may default to latin1 or utf8mb3. The collation sets the
    character set of the column. The collation ignores case, as searches do, and exists on every
    supported version.
    """

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        parameters = super().db_parameters(connection)  # type: ignore[misc]
        if connection.vendor == "mysql":
            return {**parameters, "collation": "utf8mb4_general_ci"}
        return parameters


class UnicodeCharField(_Unicode, models.CharField):
    """A CharField for text that people or errors wrote."""


class UnicodeTextField(_Unicode, models.TextField):
    """A TextField for text that people or errors wrote."""


class PartialIndex(models.Index):
    """
    An index of the rows that match ``where``, on databases that support partial indexes.

    Other databases get an index of all rows, with more fields in front of the same fields. So one
    migration and one ORDER BY serve all databases. The fields in front are those that ``where``
    compares for equality. ``front`` can name other fields instead, which distinguish the rows as
    well and change less often.
    """

    def __init__(
        self,
        *,
        fields: Sequence[str],
        name: str,
        where: Mapping[str, Any],
        unique: bool = False,
        front: Sequence[str] | None = None,
    ) -> None:
        super().__init__(fields=fields, name=name)
        self.where = dict(where)
        self.unique = unique
        self.front = front

    def deconstruct(self) -> Any:
        path, expressions, kwargs = super().deconstruct()
        kwargs |= {"where": self.where}
        if self.unique:
            kwargs["unique"] = True
        if self.front is not None:
            kwargs["front"] = self.front
        return path, expressions, kwargs

    def columns_in_front(self) -> Sequence[str]:
        if self.front is not None:
            return self.front
        return [name for name in self.where if "__" not in name]

    def create_sql(
        self,
        model: type[models.Model],
        schema_editor: BaseDatabaseSchemaEditor,
        using: str = "",
        **kwargs: Any,
    ) -> Statement:
        if schema_editor.connection.features.supports_partial_indexes:
            fields, condition = self.fields, models.Q(**self.where)
        else:
            fields, condition = [*self.columns_in_front(), *self.fields], None
        if self.unique:
            constraint = models.UniqueConstraint(fields=fields, name=self.name, condition=condition)
            return constraint.create_sql(model, schema_editor)  # type: ignore[return-value]
        index = models.Index(fields=fields, name=self.name, condition=condition)
        return index.create_sql(model, schema_editor, using, **kwargs)


def narrow_columns(
    connection: BaseDatabaseWrapper, kinds: Iterable[type[models.Model]]
) -> Iterator[tuple[type[models.Model], list[Any], str]]:
    """
    Yield each model that has text columns in another character set than utf8mb4.

    Yield those columns' fields and the character set of one of them as well.
    """
    if connection.vendor != "mysql":
        return
    for model in kinds:
        fields = {
            field.column: field
            for field in model._meta.local_fields
            if isinstance(field, UnicodeCharField | UnicodeTextField)
        }
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT column_name, character_set_name FROM information_schema.columns "
                "WHERE table_schema = DATABASE() AND table_name = %s AND character_set_name IS "
                "NOT NULL AND character_set_name <> 'utf8mb4'",
                [model._meta.db_table],
            )
            narrow = {column: charset for column, charset in cursor.fetchall() if column in fields}
        if narrow:
            found = [field for column, field in fields.items() if column in narrow]
            yield model, found, next(iter(narrow.values()))
