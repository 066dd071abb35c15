"""Models of a project that refer to those of the queue. They exist only during a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.apps import apps
from django.db import connections, models


@contextmanager
def project_models(
    *definitions: tuple[str, dict[str, Any]],
    bases: tuple[type[models.Model], ...] = (),
    alias: str = "default",
) -> Iterator[list[type[models.Model]]]:
    """
    Define models of the app ``tests`` with these fields, and create their tables.

    Don't call this in a transaction: SQLite can't create tables with foreign keys there.
    """
    made: list[type[models.Model]] = []
    try:
        for name, fields in definitions:
            meta = type("Meta", (), {"app_label": "tests", "db_table": f"shop_{name.lower()}"})
            attributes = {"__module__": __name__, "Meta": meta, **fields}
            made.append(type(name, bases or (models.Model,), attributes))
        with connections[alias].schema_editor() as editor:
            for model in made:
                editor.create_model(model)
        yield made
    finally:
        with connections[alias].schema_editor() as editor:
            for model in reversed(made):
                editor.delete_model(model)
        for model in made:
            throughs: list[Any] = [field.remote_field for field in model._meta.many_to_many]
            for gone in (model, *(remote.through for remote in throughs)):
                apps.all_models["tests"].pop(gone.__name__.lower())
        apps.clear_cache()
