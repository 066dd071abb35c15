"""
Delete many rows, and keep only those to which rows of other tables must refer.

A project may have a ForeignKey to Task. Django applies its ``on_delete`` in Python. The database
applies its own foreign keys, including those that no model declares. The module is long because
Django deletes all rows or none, so the choice of rows to keep has to be made here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from django.db import Error, IntegrityError, connections, models, router, transaction
from django.db.models.deletion import ProtectedError, RestrictedError

from bgtask.db import Reference, is_about_data, operations_for, referred
from bgtask.db.internals import ReferringRows, delete_rows, relations_to
from bgtask.loggers import get_logger

logger = get_logger(__name__)

Model = type[models.Model]

PAGE = 1_000  # A thousand parameters are within the limits of every database.
ERROR = "error: "  # Prefix of a reason that is an error. The other reasons are names of tables.
# How many times a page is divided to find the rows that an error is about. On SQLite all other
# writers wait meanwhile. After that, rows that are still together are kept together.
MOST_DIVISIONS = 60
MESSAGE_CHARACTERS = 200


@dataclass(slots=True)
class Deletion:
    """How many rows were deleted, and which were kept."""

    number: int = 0
    # Primary key → the table that refers to the row, or ERROR and the error that was raised.
    kept: dict[int, str] = field(default_factory=dict)
    errors: dict[type[Exception], str] = field(default_factory=dict)  # The first of each class.


def kept_in_words(reasons: Iterable[str]) -> list[str]:
    """Return a sentence for each table or error that keeps rows from being deleted."""
    return [
        f"Could not delete {number:,} row{'s' if number > 1 else ''}: "
        + (
            reason.removeprefix(ERROR)
            if reason.startswith(ERROR)
            else f"rows of {reason} refer to {'them' if number > 1 else 'it'}."
        )
        for reason, number in sorted(Counter(reasons).items())
    ]


def delete(
    rows: models.QuerySet[Any],
    *,
    history: Mapping[Model, str] | None = None,
    others: Sequence[Model] = (),
) -> Deletion:
    """
    Delete these rows, and those of ``history`` that belong to them, in one transaction.

    ``history`` maps each model to the column that refers to the rows. ``others`` are more models
    of bgtask that refer to the rows.
    """
    deletion = Deletion()
    connection = connections[rows.db]
    with operations_for(connection).transaction(connection):
        # Lock the rows in the order of their keys, so that two deletions can't deadlock.
        ids = list(rows.order_by("pk").select_for_update().values_list("pk", flat=True))
        for start in range(0, len(ids), PAGE):
            page = _Page(rows.model, rows.db, dict(history or {}), others, deletion)
            page.delete(ids[start : start + PAGE])
    return deletion


def has_referring_models(ours: Collection[Model]) -> bool:
    """Return whether models other than these refer to these."""
    return any(
        relation.related_model not in ours for model in ours for relation in relations_to(model)
    ) or any(
        hasattr(one, "bulk_related_objects") for model in ours for one in model._meta.private_fields
    )


def is_referred_to(model: Model, alias: str) -> bool:
    """Return whether models, or foreign keys that the database can list, refer to this model."""
    connection = connections[alias]
    return has_referring_models([model]) or bool(
        operations_for(connection).references(connection, model._meta.db_table)
    )


class _Kept(Exception):
    """Some rows of a page can't be deleted. Maps their keys to the tables that refer to them."""

    def __init__(self, tables: dict[int, str]) -> None:
        self.tables = tables


class _Page:
    def __init__(
        self,
        model: Model,
        alias: str,
        history: dict[Model, str],
        others: Sequence[Model],
        deletion: Deletion,
    ) -> None:
        self.model = model
        self.alias = alias
        self.connection = connections[alias]
        self.operations = operations_for(self.connection)
        self.history = history
        self.ours = {model, *history}
        self.others = {*self.ours, *others}
        self.deletion = deletion
        self.divisions = 0

    def delete(self, ids: Sequence[int]) -> None:
        """Delete these rows, and record in ``deletion`` those that can't be deleted."""
        while ids:
            try:
                with transaction.atomic(using=self.alias):
                    self._try(ids)
            except _Kept as kept:
                reasons = kept.tables
            except Exception as error:
                # Signal receivers and triggers of the project may raise anything.
                if isinstance(error, Error) and not is_about_data(error):
                    raise
                refused = error if isinstance(error, IntegrityError) else None
                reasons = self._kept_by(refused, ids) if refused else {}
                if not reasons and len(ids) > 1 and self.divisions < MOST_DIVISIONS:
                    self.divisions += 1
                    middle = len(ids) // 2
                    self.delete(ids[:middle])
                    self.delete(ids[middle:])
                    return
                reasons = reasons or dict.fromkeys(ids, self._reason(error))
            else:
                self.deletion.number += len(ids)
                return
            self.deletion.kept.update(reasons)
            ids = [pk for pk in ids if pk not in reasons]

    def _reason(self, error: Exception) -> str:
        """
        Return the table that this error is about, or else a text about the error.

        Log such an error once per class.
        """
        if isinstance(error, IntegrityError):
            table = _table_of(error) or self.operations.refusing_table(error)
            if table:
                return table
        errors = self.deletion.errors
        if type(error) not in errors:
            # Use the first text for all errors of a class. A text may contain the key of a row,
            # and would then be different for each row.
            name, message = type(error).__name__, str(error)[:MESSAGE_CHARACTERS]
            errors[type(error)] = f"{ERROR}{name}: {message}"
            logger.warning(
                "Could not delete rows of %s: %s",
                self.model._meta.db_table, name, exc_info=error,
            )  # fmt: skip
        return errors[type(error)]

    def _try(self, ids: Sequence[int]) -> None:
        """Delete all of these rows, or raise an exception."""
        tables: set[str] = set()
        with ExitStack() as stack:
            if has_referring_models(self.ours):
                tables = self._treat_referring_rows(ids, stack)
            references = self._references()
            if kept := self._referred(ids, references):
                raise _Kept(kept)
            for model, column in self.history.items():
                delete_rows(self._rows(model).filter(**{f"{column}__in": ids}))
            delete_rows(self._rows(self.model).filter(pk__in=ids))
            unread = [one for one in references if not one.is_readable]
            tables |= _cascading(references)
            self.operations.check_now(self.connection, [*unread, *self._references_to(tables)])

    def _rows(self, model: Model) -> models.QuerySet[Any]:
        return model._base_manager.using(self.alias)

    # References from models

    def _treat_referring_rows(self, ids: Sequence[int], stack: ExitStack) -> set[str]:
        """Apply ``on_delete`` to referring rows. Return the tables from which rows were deleted."""
        collector = ReferringRows(self.alias, self.ours, partial(_home_of, self.alias))
        needed = {
            target.name
            for relation in relations_to(self.model)
            for target in relation.field.foreign_related_fields
        }
        # Read only the keys. A task may hold megabytes of arguments and tracebacks.
        collector.collect(list(self._rows(self.model).filter(pk__in=ids).only("pk", *needed)))
        elsewhere = collector.collect_elsewhere()
        for alias in elsewhere:
            # These changes are rolled back as well if the rows themselves can't be deleted.
            stack.enter_context(transaction.atomic(using=alias))
        for one in (collector, *elsewhere.values()):
            one.delete()
        return collector.tables

    # References that the database knows

    def _references(self) -> list[Reference]:
        ours = {model._meta.db_table for model in self.others}
        return [
            reference
            for model in self.ours
            for reference in self.operations.references(self.connection, model._meta.db_table)
            if reference.schema or reference.table not in ours
        ]

    def _references_to(self, tables: set[str]) -> list[Reference]:
        """Return the foreign keys to these tables, and to tables where the database cascades."""
        found: list[Reference] = []
        seen: set[str] = set()
        while new := tables - seen:
            seen |= new
            more = [
                reference
                for table in sorted(new)
                for reference in self.operations.references(self.connection, table)
            ]
            found += more
            tables = _cascading(more)
        return found

    def _referred(self, ids: Sequence[int], references: Iterable[Reference]) -> dict[int, str]:
        """Return the rows that the database would refuse to delete, and the tables that refer."""
        keys = {self.model._meta.db_table: self._column(self.model, "pk")} | {
            model._meta.db_table: self._column(model, name) for model, name in self.history.items()
        }
        return {
            pk: reference.label
            for reference in references
            if reference.blocks and reference.is_readable and reference.target_table in keys
            for pk in referred(self.connection, reference, keys[reference.target_table], ids)
        }

    @staticmethod
    def _column(model: Model, name: str) -> str:
        options = model._meta
        return str((options.pk if name == "pk" else options.get_field(name)).column)  # type: ignore[union-attr]

    def _kept_by(self, error: IntegrityError, ids: Sequence[int]) -> dict[int, str]:
        """Return the rows that this error is about, as far as the error names them."""
        if reference := self.operations.refused_by(error):
            return dict.fromkeys(self._referred(ids, [reference]), reference.table)
        kept: dict[int, str] = {}
        by_model: dict[tuple[Model, str], list[Any]] = defaultdict(list)
        for row in _refusing_rows(error):
            by_model[type(row), row._state.db].append(row.pk)
        for (model, alias), keys in by_model.items():
            for one in model._meta.concrete_fields:
                if (
                    isinstance(one, models.ForeignKey)
                    and one.remote_field.model._meta.concrete_model is self.model
                    and one.target_field.primary_key
                    and one.remote_field.on_delete in (models.PROTECT, models.RESTRICT)
                ):
                    for start in range(0, len(keys), PAGE):
                        found = model._base_manager.using(alias).filter(
                            pk__in=keys[start : start + PAGE]
                        )
                        # Compare with ``ids`` in Python: one query could have too many parameters.
                        for pk in set(found.values_list(one.attname, flat=True)) & set(ids):
                            kept[pk] = model._meta.db_table
        return kept


def _home_of(alias: str, model: Model) -> str:
    """Return the alias of the database where this model's rows refer to rows in ``alias``."""
    from bgtask.models.task import Task

    return router.db_for_write(model) if router.db_for_write(Task) == alias else alias


def _cascading(references: Iterable[Reference]) -> set[str]:
    """Return the tables in which the database itself deletes or changes rows."""
    return {one.table for one in references if not (one.blocks or one.schema)}


def _refusing_rows(error: IntegrityError) -> list[Any]:
    if isinstance(error, ProtectedError):
        return list(error.protected_objects)
    if isinstance(error, RestrictedError):
        return list(error.restricted_objects)
    return []


def _table_of(error: IntegrityError) -> str:
    return ", ".join(sorted({row._meta.db_table for row in _refusing_rows(error)}))
