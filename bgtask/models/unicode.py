"""Find the text columns that do not hold every character, on MariaDB and MySQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask.models.fields import UnicodeCharField, UnicodeTextField


def narrow_columns(
    connection: BaseDatabaseWrapper, kinds: Iterable[type[models.Model]]
) -> Iterator[tuple[type[models.Model], list[Any], str]]:
    """Yield each model that has text columns in another character set than utf8mb4, and its set."""
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
