"""
Use the parts of Django that its documentation does not promise, each by one function.

Django may change these parts in any release, so ``tests/bgtask/db/test_internals.py`` checks each
function against the installed Django. No other module uses them, and a test checks that as well.

Some names without promise are not here. ``connection.connection``, ``autocommit`` and
``in_atomic_block`` are read in many places, by bgtask and by most libraries for databases.
``Signal.receivers`` is read before each task, where another call would cost more than the question.
``PartialIndex`` overrides ``Index.create_sql()``, and no function could do that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any

from django.apps import AppConfig
from django.core.management.base import BaseCommand
from django.db import connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.base import ModelState
from django.db.models.deletion import (
    Collector,
    RestrictedError,
    get_candidate_relations_to_delete,
)

Model = type[models.Model]

# Rows and queries


def new_instance(model: Model, alias: str) -> Any:
    """
    Return an instance without values, as if it was read from the database ``alias``.

    ``Model.__init__`` is not called, since it takes longer than all the rest of a claim. Fields
    whose values the caller does not set are deferred.
    """
    instance = model.__new__(model)
    state = instance.__dict__["_state"] = ModelState()
    state.adding = False
    state.db = alias
    return instance


def select_sql(queryset: models.QuerySet[Any]) -> tuple[str, tuple[Any, ...]]:
    """Return the SELECT of the queryset and its parameters, even if it is known to be empty."""
    sql, params = queryset.query.get_compiler(queryset.db, elide_empty=False).as_sql()
    return sql, tuple(params)


def delete_rows(rows: models.QuerySet[Any]) -> int:
    """Delete these rows by one statement, without signals and ``on_delete``; return how many."""
    return int(rows._raw_delete(rows.db))


# Connections


@contextmanager
def immediate_transaction(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """
    Open a transaction of SQLite that takes the write lock when it begins.

    A deferred transaction that reads first is refused at its first write if another connection has
    written meanwhile. SQLite refuses the write at once, whatever the timeout.
    """
    connection.ensure_connection()  # Connecting sets transaction_mode, so connect first.
    mode = connection.transaction_mode  # type: ignore[attr-defined]
    connection.transaction_mode = "IMMEDIATE"  # type: ignore[attr-defined]
    try:
        with transaction.atomic(using=connection.alias):
            yield
    finally:
        connection.transaction_mode = mode  # type: ignore[attr-defined]


def is_in_memory(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the whole SQLite database is in memory."""
    return bool(connection.is_in_memory_db())  # type: ignore[attr-defined]


def isolation_level(connection: BaseDatabaseWrapper) -> str | None:
    """Return the isolation level that Django sets on MariaDB or MySQL. None: the server's own."""
    level: str | None = connection.isolation_level  # type: ignore[attr-defined]
    return level


def driver_of(connection: BaseDatabaseWrapper) -> Any:
    """Return the module of the database's driver."""
    return connection.Database  # type: ignore[attr-defined]


def separate_connection(alias: str) -> BaseDatabaseWrapper:
    """Return a new connection that is not connected yet. It is outside of any pool."""
    connection = connections[alias].copy()
    connection.settings_dict["OPTIONS"].pop("pool", None)
    return connection


def translated_errors(connection: BaseDatabaseWrapper) -> AbstractContextManager[Any]:
    """Return a context that turns the errors of the driver into those of Django."""
    return connection.wrap_database_errors


def take_error(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a statement has failed since the last call."""
    failed = connection.errors_occurred
    connection.errors_occurred = False
    return failed


def check_before_next_use(connection: BaseDatabaseWrapper) -> None:
    """With CONN_HEALTH_CHECKS, let the next statement check the connection again."""
    connection.health_check_done = False  # type: ignore[attr-defined]


def forget_transaction(connection: BaseDatabaseWrapper) -> None:
    """Make Django assume that no transaction is open. Its callbacks will not be called."""
    connection.in_atomic_block = False
    connection.savepoint_ids = []
    connection.run_on_commit = []


def forget_driver_connection(connection: BaseDatabaseWrapper) -> None:
    """Make Django connect again at the next statement."""
    connection.connection = None


def replace_connection(alias: str) -> None:
    """Make Django build a new connection object for this alias in this thread."""
    del connections[alias]


def put_wrapper_first(
    connection: BaseDatabaseWrapper, wrapper: Callable[..., Any] | None, kind: type
) -> None:
    """
    Replace the wrappers of this class that are called for each statement of the connection.

    If ``wrapper`` isn't None, it becomes the first. A ``with connection.execute_wrapper(…)`` that
    ends later removes the last one.
    """
    wrappers = connection.execute_wrappers
    wrappers[:] = [one for one in wrappers if not isinstance(one, kind)]
    if wrapper is not None:
        wrappers.insert(0, wrapper)


_OF_DJANGO = ("django.db.backends.", "django.contrib.gis.db.backends.")
# Attributes that Django sets when it connects.
_SET_BY_CONNECTING = ("init_commands", "transaction_mode", "isolation_level")


def is_djangos_own(kind: type[BaseDatabaseWrapper]) -> bool:
    """Return whether this class of connections is one of Django's."""
    return kind.__module__.startswith(_OF_DJANGO)


@lru_cache
def attributes_of_django(kind: Any) -> frozenset[str]:
    """Return the names of attributes of the Django class that a library's connection extends."""
    own = next((base for base in kind.__mro__ if is_djangos_own(base)), kind)
    settings = next(iter(connections.settings.values()))
    return frozenset([*vars(own(settings, "")), *dir(own), *_SET_BY_CONNECTING])


def unused_connection(alias: str) -> BaseDatabaseWrapper:
    """Return a connection object as Django makes it for each thread."""
    made: BaseDatabaseWrapper = connections.create_connection(alias)
    return made


# Deletion of rows to which other tables refer


def relations_to(model: Model) -> list[Any]:
    """Return the relations from models whose ``on_delete`` a deletion from this one applies."""
    return list(get_candidate_relations_to_delete(model._meta))


class ReferringRows(Collector):
    """
    Collect the rows that refer to rows of ``ours``. Shorter statements delete the latter.

    ``home_of`` returns the alias of the database in which a model's rows refer to them.
    """

    def __init__(
        self, using: str, ours: Collection[Model], home_of: Callable[[Model], str]
    ) -> None:
        super().__init__(using)
        self.ours = ours
        self.tables: set[str] = set()
        self._home_of = home_of
        self._elsewhere: list[tuple[Model, Any, Any]] = []

    def _has_signal_listeners(self, model: Model) -> bool:
        # The receivers for ``ours`` aren't called. With receivers, Django would read all columns
        # of the rows.
        return model not in self.ours and super()._has_signal_listeners(model)  # type: ignore[misc]

    def related_objects(
        self, related_model: Model, related_fields: Any, objs: Any
    ) -> models.QuerySet[Any]:
        if self._home_of(related_model) != self.using:
            self._elsewhere.append((related_model, related_fields, objs))
            return related_model._base_manager.none()
        return super().related_objects(related_model, related_fields, objs)

    def collect_elsewhere(self) -> dict[str, Collector]:
        """Collect the referring rows that a router keeps in other databases."""
        collectors: dict[str, Collector] = {}
        for related_model, related_fields, objs in self._elsewhere:
            alias = self._home_of(related_model)
            collector = collectors.setdefault(alias, Collector(alias))
            for one in related_fields:
                rows = collector.related_objects(related_model, [one], objs)
                if rows:
                    one.remote_field.on_delete(collector, one, rows, alias)
            if restricted := [
                row
                for fields in collector.restricted_objects.values()
                for rows in fields.values()
                for row in rows
            ]:
                raise RestrictedError(
                    f"Rows of {related_model._meta.db_table} refer.", set(restricted)
                )
        return collectors

    def delete(self) -> Any:
        for model in self.ours:
            self.data.pop(model, None)
        self.fast_deletes = [rows for rows in self.fast_deletes if rows.model not in self.ours]
        self.tables = {
            model._meta.db_table
            for model in (*self.data, *(one.model for one in self.fast_deletes))
        }
        return super().delete()


# Commands. Their modules are imported late, since a web process does not need them.


def is_from_command_line(command: BaseCommand) -> bool:
    """Return whether this command was run by ``manage.py``, and not by ``call_command()``."""
    return bool(command._called_from_command_line)  # type: ignore[attr-defined]


def is_restarted_by_reloader() -> bool:
    """Return whether this is the process that Django's reloader starts again and again."""
    from django.utils import autoreload

    return os.environ.get(autoreload.DJANGO_AUTORELOAD_ENV) == "true"


def run_with_reloader(function: Callable[..., object], **options: Any) -> None:
    """Run the function in a thread, and start this process again when its code changes."""
    from django.utils import autoreload

    autoreload.run_with_reloader(function, **options)


def command_names(app: AppConfig) -> list[str]:
    """Return the names of the management commands that this app has."""
    from django.core.management import find_commands

    return find_commands(os.path.join(app.path, "management"))


def command_of(app_name: str, name: str) -> BaseCommand:
    """Import this app's command, and return an instance."""
    from django.core.management import load_command_class

    return load_command_class(app_name, name)
