"""The migrations make what the models say, on every database, and can be undone."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.db import connection
from django.db.migrations.loader import MigrationLoader

from bgtask.db.fields import PartialIndex
from bgtask.models import Task
from tests.factories import TaskFactory

INDEXES = {index.name: index for index in Task._meta.indexes}
PARTIAL = sorted(name for name, index in INDEXES.items() if isinstance(index, PartialIndex))


def constraints():
    with connection.cursor() as cursor:
        return connection.introspection.get_constraints(cursor, Task._meta.db_table)


def tables():
    return {name for name in connection.introspection.table_names() if name.startswith("bgtask_")}


def definition(name):
    """Return the definition of an index from the database."""
    source = {
        "postgresql": "SELECT indexdef FROM pg_indexes WHERE indexname = %s",
        "sqlite": "SELECT sql FROM sqlite_master WHERE name = %s",
    }[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(source, [name])
        return cursor.fetchone()[0].replace('"', "").replace("::text", "")


@pytest.mark.django_db
def test_no_migration_is_missing(capsys):
    call_command("makemigrations", "bgtask", check=True, dry_run=True)

    assert "No changes" in capsys.readouterr().out


@pytest.mark.django_db(transaction=True)
def test_migrations_can_be_reversed_and_applied_again():
    before = tables(), constraints().keys()

    try:
        call_command("migrate", "bgtask", "zero", verbosity=0)
        assert not {name for name in tables() if not name.startswith("bgtask_admin")}
    finally:
        call_command("migrate", verbosity=0)

    assert (tables(), constraints().keys()) == before
    assert TaskFactory().status == "READY"


@pytest.mark.django_db
@pytest.mark.vendor("postgresql")
def test_autovacuum_of_the_tasks_starts_early():
    with connection.cursor() as cursor:
        cursor.execute("SELECT reloptions FROM pg_class WHERE oid = 'bgtask_task'::regclass")
        assert "autovacuum_vacuum_scale_factor=0.01" in cursor.fetchone()[0]


class TasksElsewhere:
    """Keep the table of tasks, and no other, out of every database."""

    def allow_migrate(self, db, app_label, model_name=None, **hints):
        return False if model_name == "task" else None


@pytest.mark.django_db
@pytest.mark.vendor("postgresql")
@pytest.mark.parametrize(("routers", "statements"), [([], 1), ([TasksElsewhere()], 0)])
def test_a_table_that_a_router_keeps_out_is_not_altered(settings, routers, statements):
    """Kind of fault: a migration alters a table that it has not created on this database."""
    settings.DATABASE_ROUTERS = routers
    migration = import_module("bgtask.migrations.0001_initial")
    state = MigrationLoader(connection).project_state(("bgtask", "0001_initial"))

    with connection.schema_editor(collect_sql=True) as editor:
        migration.set_autovacuum(state.apps, editor)

    assert len(editor.collected_sql) == statements


@pytest.mark.django_db
def test_pauses_and_holds_have_only_the_view_permission():
    """Kind of fault: a right that changes nothing, since other rights decide."""
    found = Permission.objects.filter(content_type__model__in=["queuepause", "taskhold"])

    names = found.order_by("codename").values_list("codename", flat=True)
    assert list(names) == ["view_queuepause", "view_taskhold"]


@pytest.mark.django_db
@pytest.mark.parametrize("name", INDEXES)
def test_every_index_of_the_model_exists(name):
    assert name in constraints()


@pytest.mark.django_db
@pytest.mark.vendor("postgresql", "sqlite")
@pytest.mark.parametrize("name", PARTIAL)
def test_partial_index_covers_only_its_rows(name):
    ((lookup, value),) = INDEXES[name].where.items()
    column = lookup.removesuffix("__isnull").replace("locked_by", "locked_by_id")
    condition = f"{column} IS NOT NULL" if lookup.endswith("__isnull") else f"{column} = '{value}'"

    where = definition(name).partition(" WHERE ")[2]

    # PostgreSQL puts the column in brackets of its own.
    assert where.translate(str.maketrans("", "", "()")) == condition


@pytest.mark.django_db
@pytest.mark.vendor("mysql")
@pytest.mark.parametrize("name", PARTIAL)
def test_full_index_begins_with_the_condition_columns(name):
    index = INDEXES[name]
    front = {"bgtask_task_deadline": [], "bgtask_task_held": ["held_for"]}.get(
        name, ["status"] if "status" in index.where else []
    )
    fields = [Task._meta.get_field(field).column for field, _ in index.fields_orders]

    assert constraints()[name]["columns"] == front + fields


@pytest.mark.django_db
def test_claim_reads_its_index_forwards():
    orders = constraints()["bgtask_task_claim"]["orders"]

    assert orders[-4:] == ["ASC", "DESC", "ASC", "ASC"]
