"""
Define system checks, which report mistakes and their remedies before anything starts.

The module is long because each check has its own texts. No check depends on another one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any

import django
from django.apps import apps
from django.conf import settings as django_settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.timezone import get_default_timezone

from bgtask import registry
from bgtask.clashes import check_commands
from bgtask.conf import get_settings, require_autocommit
from bgtask.db.internals import driver_of, is_in_memory, isolation_level
from bgtask.decorators import CALL_OPTIONS
from bgtask.options import SECOND_NAMES

SQLITE_OPTIONS = (
    '{"transaction_mode": "IMMEDIATE", "timeout": 20, '
    '"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"}'
)
SQLITE_SYNCHRONOUS_FULL = 2  # 0 is OFF, 1 is NORMAL, 3 is EXTRA.

# Settings that the ancestors read and bgtask doesn't, each with its remedy.
_LEGACY_SETTINGS = {
    "BACKGROUND_TASK_RUN_ASYNC": "Delete it: process_tasks --threads=N runs N tasks at once.",
    "BACKGROUND_TASK_ASYNC_THREADS": "Delete it: process_tasks --threads=N runs N tasks at once.",
    "BACKGROUND_TASK_PRIORITY_ORDERING": (
        "Delete it: the higher priority is first, always. Where it was ASC, change the signs of "
        "the priorities."
    ),
}


def register() -> None:
    checks.register(check_settings, "bgtask")
    checks.register(check_legacy_settings, "bgtask")
    checks.register(check_functions, "bgtask")
    checks.register(check_commands, "bgtask")
    checks.register(check_autocommit, "bgtask")
    checks.register(check_backends, "bgtask")
    checks.register(check_schedules_and_keys, "bgtask")
    checks.register(check_databases, checks.Tags.database)
    checks.register(check_user, "bgtask", deploy=True)


def check_settings(**kwargs: Any) -> list[CheckMessage]:
    try:
        settings = get_settings()
    except ImproperlyConfigured as error:
        return [
            Error(str(error), hint="See the table of settings in the README.", id="bgtask.E001")
        ]
    found: list[CheckMessage] = []
    if settings.lease < 4 * settings.heartbeat_interval:
        found.append(
            Warning(
                f"BGTASK['LEASE'] ({settings.lease:g} s) is less than four times "
                f"BGTASK['HEARTBEAT_INTERVAL'] ({settings.heartbeat_interval:g} s).",
                hint="One slow heartbeat will cost a worker its tasks. Make the lease longer.",
                id="bgtask.W001",
            )
        )
    alias = router.db_for_write(apps.get_model("bgtask", "Task"))
    if settings.listen and (vendor := connections[alias].vendor) != "postgresql":
        found.append(
            Error(
                f"BGTASK['LISTEN'] is {settings.listen!r}, but the tasks are in {alias!r}, a "
                f"database of {vendor}, which sends no notifications.",
                hint="Leave BGTASK['LISTEN'] out.",
                id="bgtask.E005",
            )
        )
    if any(len(token) < 32 for token in settings.monitor_tokens):
        found.append(
            Warning(
                "A token of BGTASK['MONITOR_TOKENS'] is shorter than 32 characters.",
                hint="Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
                id="bgtask.W002",
            )
        )
    return found


def check_legacy_settings(**kwargs: Any) -> list[CheckMessage]:
    if apps.is_installed("background_task"):  # That app still reads these settings.
        return []
    return [
        Warning(f"The setting {name} is not read by bgtask.", hint=hint, id="bgtask.W008")
        for name, hint in _LEGACY_SETTINGS.items()
        if hasattr(django_settings, name)
    ]


def check_functions(**kwargs: Any) -> list[CheckMessage]:
    """Report parameters with the name of an option, and names that differ only in case."""
    found: list[CheckMessage] = []
    by_folded: dict[str, str] = {}
    for function in registry.functions():
        for name in sorted(CALL_OPTIONS & function.parameters.keys()):
            found.append(
                Warning(
                    f"{function.name} has a parameter named {name!r}, so {name}= at the call is "
                    "the parameter and cannot be the option.",
                    hint=f"Use {function.name.rsplit('.', 1)[-1]}.using({name}=…)(…) for the "
                    f"option{_other_name(name)}, or rename the parameter.",
                    obj=function.place,
                    id="bgtask.W003",
                )
            )
        other = by_folded.setdefault(function.name.casefold(), function.name)
        if other != function.name:
            found.append(
                Error(
                    f"The background functions {other!r} (at {registry.find(other).place}) and "
                    f"{function.name!r} (at {function.place}) have names that people will take "
                    "for one.",
                    hint="Give one of them another name: @background(name=…).",
                    id="bgtask.E002",
                )
            )
    return found


def _other_name(option: str) -> str:
    """Return a text about the option's other name, or an empty text if it has none."""
    both = {**SECOND_NAMES, **{first: second for second, first in SECOND_NAMES.items()}}
    return f" (its other name is {both[option]}=)" if option in both else ""


def check_autocommit(**kwargs: Any) -> list[CheckMessage]:
    """
    Report an error if autocommit is off for the queue's database.

    This check makes no connection, so every command can run it.
    """
    from bgtask.models import Task

    try:
        require_autocommit(router.db_for_write(Task))
    except ImproperlyConfigured as error:
        return [
            Error(
                str(error),
                hint="Tasks themselves may use other databases without autocommit; they commit "
                "there what they write.",
                id="bgtask.E010",
            )
        ]
    return []


def check_backends(**kwargs: Any) -> list[CheckMessage]:
    """Check the backends of TASKS on a Django that has no tasks. Later ones check them."""
    wanted = [
        alias
        for alias, params in getattr(django_settings, "TASKS", {}).items()
        if params.get("BACKEND", "").startswith("bgtask.")
    ]
    if django.VERSION >= (6, 0) or apps.is_installed("django_tasks") or not wanted:
        return []
    if find_spec("django_tasks") is None:
        return [
            Error(
                f"TASKS[{wanted[0]!r}] names bgtask's backend, but Django "
                f"{django.get_version()} has no tasks.",
                hint="Install the package django-tasks, and add 'django_tasks' to "
                "INSTALLED_APPS. Or use Django 6.0 or later.",
                id="bgtask.E015",
            )
        ]
    from bgtask.backend.aliases import backends

    return [message for backend in backends() for message in backend.check()]


def check_user(**kwargs: Any) -> list[CheckMessage]:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return []
    return [
        Warning(
            "This process runs as root. If process_tasks does, so does every task.",
            hint="Run it as a user of its own, with no more rights than your tasks need.",
            id="bgtask.W009",
        )
    ]


def check_schedules_and_keys(**kwargs: Any) -> list[CheckMessage]:
    from bgtask.schedules.checks import check_schedules, check_unique_functions

    try:
        return [*check_schedules(), *check_unique_functions()]
    except ImproperlyConfigured:  # check_settings() reports it.
        return []


def check_databases(*, databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Check the queue's database. ``migrate`` and ``check --database default`` run this check."""
    from bgtask.models import Schedule, Task
    from bgtask.schedules.checks import check_retired

    alias = router.db_for_write(Task)
    if not databases or alias not in databases:
        return []
    connection = connections[alias]
    check = _OF_VENDOR.get(connection.vendor)
    found = [*_check_time_zone(connection), *(check(connection) if check else ())]
    if Schedule._meta.db_table in connection.introspection.table_names():  # Not before migrate.
        found += check_retired()
    return found


def _check_time_zone(connection: BaseDatabaseWrapper) -> Iterator[CheckMessage]:
    """
    Warn if daylight saving time changes the datetimes that this database stores.

    PostgreSQL stores instants. The other databases store local times, which DST sets back and
    forth.
    """
    if connection.vendor == "postgresql":
        return
    zone = connection.timezone or get_default_timezone()
    start = datetime.now(UTC)
    offsets = {
        zone.utcoffset((start + timedelta(days=day)).replace(tzinfo=None))
        for day in range(0, 366, 7)
    }
    if len(offsets) > 1:
        yield Warning(
            f"Datetimes are stored in the zone {zone} on the database {connection.alias!r}, and "
            "its clocks change twice a year.",
            hint="When they do, leases and waits will be an hour too long or too short. Set "
            "USE_TZ = True and leave TIME_ZONE out of DATABASES.",
            id="bgtask.W004",
        )


def _check_sqlite(connection: BaseDatabaseWrapper) -> Iterator[CheckMessage]:
    if connection.settings_dict["NAME"] in (":memory:", ""):
        return
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        (journal_mode,) = cursor.fetchone()
        cursor.execute("PRAGMA synchronous")
        (synchronous,) = cursor.fetchone()
    if is_in_memory(connection):
        return
    if journal_mode.lower() != "wal":
        yield Warning(
            f"The SQLite database {connection.alias!r} is in journal mode {journal_mode.upper()}.",
            hint="Readers and the writer will wait for each other. Set its OPTIONS to "
            f"{SQLITE_OPTIONS}.",
            id="bgtask.W005",
        )
    if synchronous < SQLITE_SYNCHRONOUS_FULL:
        yield Warning(
            f"The SQLite database {connection.alias!r} does not wait for the disk at each commit "
            "(PRAGMA synchronous is OFF or NORMAL).",
            hint="A power cut loses the tasks that were enqueued since the last checkpoint. Set "
            "PRAGMA synchronous=FULL in its init_command, or accept the loss and add "
            "bgtask.W013 to SILENCED_SYSTEM_CHECKS.",
            id="bgtask.W013",
        )
    mode = connection.settings_dict["OPTIONS"].get("transaction_mode") or ""
    if mode.upper() not in ("IMMEDIATE", "EXCLUSIVE"):
        yield Warning(
            f"Transactions on the SQLite database {connection.alias!r} do not begin as IMMEDIATE.",
            hint="bgtask begins its own so, but yours will meet “database is locked”, at once "
            f"and whatever the timeout. Set its OPTIONS to {SQLITE_OPTIONS}.",
            id="bgtask.W006",
        )
    driver = driver_of(connection)
    if driver.sqlite_version_info < (3, 35):
        yield Error(
            f"SQLite {driver.sqlite_version} cannot UPDATE … RETURNING.",
            hint="Use SQLite 3.35 or later.",
            id="bgtask.E003",
        )


def _check_mysql(connection: BaseDatabaseWrapper) -> Iterator[CheckMessage]:
    version = connection.mysql_version  # type: ignore[attr-defined]
    maria = connection.mysql_is_mariadb  # type: ignore[attr-defined]
    needed = (10, 8) if maria else (8, 0, 16)
    if version < needed:
        yield Error(
            f"{'MariaDB' if maria else 'MySQL'} {'.'.join(map(str, version))} is too old.",
            hint=f"Use {'.'.join(map(str, needed))} or later. Older ones lack SKIP LOCKED, or "
            "ignore descending index keys and lock every task they sort.",
            id="bgtask.E004",
        )
    level = isolation_level(connection)
    if level != "read committed":
        yield Warning(
            f"The database {connection.alias!r} is used at the isolation level "
            f"{(level or 'of the server').upper()}.",
            hint="Claims would lock gaps and keep others from enqueuing. Leave out "
            "OPTIONS['isolation_level'], or set it to \"read committed\".",
            id="bgtask.W007",
        )
    yield from _check_character_sets(connection)


def _check_character_sets(connection: BaseDatabaseWrapper) -> Iterator[CheckMessage]:
    """
    Warn about character sets that can't store every character.

    Texts that people write, and errors, must be stored whole, whatever characters they have.
    """
    from bgtask.db.fields import narrow_columns

    with connection.cursor() as cursor:
        cursor.execute("SELECT @@character_set_client, @@character_set_database")
        charset, default = cursor.fetchone()
    if default != "utf8mb4":
        yield Warning(
            f"The default character set of the database {connection.alias!r} is {default}, which "
            "cannot hold every character.",
            hint="The tables of bgtask are created in utf8mb4 all the same. Those of Django and "
            "of your project are not: Django's admin log keeps other characters as escapes. "
            "Convert them, and ALTER DATABASE … CHARACTER SET utf8mb4.",
            id="bgtask.W011",
        )
    if charset != "utf8mb4":
        yield Warning(
            f"The connection to the database {connection.alias!r} uses the character set "
            f"{charset}, which cannot send every character.",
            hint='Set OPTIONS["charset"] of this database to "utf8mb4", or leave it out.',
            id="bgtask.W011",
        )
    ours = (model for model in apps.get_models() if model._meta.app_label in _APPS)
    for model, fields, charset in narrow_columns(connection, ours):
        table, columns = model._meta.db_table, ", ".join(field.column for field in fields)
        changes = ", ".join(
            f"MODIFY {field.column} … COLLATE {field.db_parameters(connection)['collation']}"
            for field in fields
        )
        yield Warning(
            f"Columns of the table {table} on the database {connection.alias!r} have the "
            f"character set {charset}, which cannot hold every character: {columns}.",
            hint="Names, reasons and errors with other characters will be refused. Convert the "
            f"columns: ALTER TABLE {table} {changes}. Keep the rest of their definitions.",
            id="bgtask.W011",
        )


_APPS = ("bgtask", "bgtask_admin")
_OF_VENDOR: dict[str, Callable[[Any], Iterator[CheckMessage]]] = {
    "sqlite": _check_sqlite,
    "mysql": _check_mysql,
}
