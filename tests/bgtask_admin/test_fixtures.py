"""Test that a project can be dumped and loaded with all models, those of the dashboard included."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from bgtask.models import (
    Attempt,
    QueueHistory,
    QueuePause,
    QueueStats,
    Schedule,
    Slot,
    Task,
    TaskHold,
    TaskStats,
    Worker,
)
from bgtask.status import Status
from bgtask_admin.actions.registry import Verb
from bgtask_admin.models import Operation, QueueHealth, ScheduleList, TaskList
from tests.bgtask.schedules.conftest import make
from tests.factories import AttemptFactory, TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db(transaction=True)

OURS = [
    Attempt, Operation, QueueHistory, QueuePause, QueueStats, Schedule, Slot, Task, TaskHold,
    TaskStats, Worker,
]  # fmt: skip


def fill(user):
    for status in Status:
        TaskFactory(status=status)
    AttemptFactory(task=TaskFactory(status=Status.FAILED))
    WorkerFactory(dead=True)
    now = timezone.now().replace(second=0, microsecond=0)
    TaskHold.objects.create(task_name="shop.send", held_at=now)
    QueuePause.objects.create(queue="mail", paused_at=now)
    TaskStats.objects.create(minute=now, queue="mail", task_name="shop.send", succeeded=1)
    QueueStats.objects.create(minute=now, queue="mail", ready=1, oldest_ready_age=1)
    QueueHistory.objects.create(minute=now, queue="mail", succeeded=1)
    Slot.objects.create(schedule=make(), slot=now, decision="enqueued", decided_at=now)
    operation = Operation.objects.create(
        key="1", user=user, by="admin", verb=Verb.REQUEUE, previewed_at=now
    )
    LogEntry.objects.create(
        user=user,
        content_type=ContentType.objects.get_for_model(operation),
        object_id=str(operation.pk),
        action_flag=CHANGE,
    )


def stored():
    return {
        model: [
            {name: in_milliseconds(value) for name, value in row.items()}
            for row in model.objects.order_by("pk").values()
        ]
        for model in OURS
    }


def in_milliseconds(value):
    """Cut a time to milliseconds, as Django does when it writes one as JSON."""
    if isinstance(value, datetime):
        return value.replace(microsecond=value.microsecond // 1000 * 1000)
    return value


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param(
            {"use_natural_foreign_keys": True, "use_natural_primary_keys": True}, id="natural"
        ),
        pytest.param({"use_base_manager": True}, id="all"),
    ],
)
def test_a_dump_of_the_whole_project_is_loaded_into_an_empty_database(
    options, admin_user, tmp_path
):
    """Kind of fault: code that reads all models finds one without a table."""
    fill(admin_user)
    before = stored()
    path = tmp_path / "all.json"
    call_command("dumpdata", output=str(path), verbosity=0, **options)
    call_command("flush", interactive=False, inhibit_post_migrate=True, verbosity=0)
    ContentType.objects.clear_cache()
    assert not Task.objects.exists()

    call_command("loaddata", str(path), verbosity=0)

    if options.get("use_natural_primary_keys"):  # Keys of users may be others then.
        before[Operation][0]["user_id"] = Operation.objects.get().user_id
    assert stored() == before
    assert Operation.objects.get().user.username == admin_user.username
    connection.check_constraints()
    TaskFactory()  # The next key is a free one.


def test_a_dump_has_each_row_once(admin_user, tmp_path):
    fill(admin_user)
    path = tmp_path / "all.json"

    call_command("dumpdata", output=str(path), verbosity=0)

    rows = [(row["model"], row["pk"]) for row in json.loads(path.read_text())]
    assert len(rows) == len(set(rows))
    names = {name for name, _pk in rows}
    assert "bgtask_admin.operation" in names
    assert not names & {
        "bgtask_admin.queuehealth",
        "bgtask_admin.tasklist",
        "bgtask_admin.schedulelist",
    }


def test_every_model_can_be_read(admin_user):
    """Kind of fault: a model without a table, or one that shows the rows of another."""
    fill(admin_user)

    counts = {
        model: model._default_manager.count()
        for model in apps.get_models()
        if model._meta.app_label in ("bgtask", "bgtask_admin")
    }

    for model in (QueueHealth, TaskList, ScheduleList):
        assert counts.pop(model) == 0
    assert set(counts) == set(OURS)
    assert all(counts.values())
    tables = connection.introspection.table_names()
    assert {model._meta.db_table for model in counts} <= set(tables)


def test_code_that_walks_all_models_reads_each_row_once(admin_user):
    """
    Kind of fault: the models of the dashboard break tools that read or compare all models.

    The command dumpscript of django-extensions reads the default manager of each model, and all
    fields of each row. Others read the base manager, and leave out proxies.
    """
    fill(admin_user)
    ours = [model for model in apps.get_models(include_auto_created=True) if model_is_ours(model)]

    rows = [
        (row._meta.concrete_model, row.pk, [field.value_to_string(row) for field in fields_of(row)])
        for model in ours
        for row in model._default_manager.all().iterator()
    ]
    by_base_manager = [
        (row._meta.concrete_model, row.pk)
        for model in ours
        if not model._meta.proxy
        for row in model._base_manager.all()
    ]

    assert len(rows) == len({(model, pk) for model, pk, _texts in rows})
    assert {model for model, _pk, _texts in rows} == set(OURS)
    assert sorted((model.__name__, pk) for model, pk, _texts in rows) == sorted(
        (model.__name__, pk) for model, pk in by_base_manager
    )


def test_every_model_fits_the_table_that_it_names():
    """
    Kind of fault: a tool that compares models with tables finds one without a table or a column.

    The command sqldiff of django-extensions does this, also with models that aren't managed.
    """
    tables = set(connection.introspection.table_names())
    for model in filter(model_is_ours, apps.get_models()):
        assert model._meta.managed
        assert model._meta.db_table in tables
        with connection.cursor() as cursor:
            columns = connection.introspection.get_table_description(cursor, model._meta.db_table)
        fields = model._meta.concrete_model._meta.local_concrete_fields
        assert {column.name for column in columns} == {field.column for field in fields}
        for field in fields:
            assert field.db_type(connection)
            assert field.db_parameters(connection)["type"]
            assert field.deconstruct()[1]


def model_is_ours(model):
    return model._meta.app_label in ("bgtask", "bgtask_admin")


def fields_of(row):
    return row._meta.concrete_fields


def test_the_entries_of_the_index_have_no_permissions_of_their_own():
    names = Permission.objects.filter(content_type__app_label="bgtask_admin").values_list(
        "codename", flat=True
    )

    assert list(names) == ["view_operation"]


def test_the_index_has_the_same_entries(admin_client):
    index = admin_client.get("/admin/").text

    for url in ("queuehealth", "tasklist", "schedulelist", "operation"):
        assert f'href="/admin/bgtask_admin/{url}/"' in index
        assert admin.site.is_registered(apps.get_model("bgtask_admin", url))
