"""Make rows that refer to tasks, and prune the tasks."""

from __future__ import annotations

from contextlib import contextmanager

from django.db import connection, models, transaction

from bgtask.db import DatabaseNow
from bgtask.lifecycle.retention import Pruning
from bgtask.models import Task
from bgtask.status import Status
from tests.factories import TaskFactory

DAY = 86_400


def foreign_key(on_delete, to="bgtask.Task", kind=models.ForeignKey, **options):
    return kind(to, on_delete, related_name="+", **options)


def finished(number, *, days=8):
    return [
        TaskFactory(status="SUCCESSFUL", finished_at=DatabaseNow(-days * DAY))
        for _ in range(number)
    ]


def ids(model=Task):
    return set(model.objects.values_list("pk", flat=True))


def prune(batch_size=1_000):
    pruning = Pruning(Status.SUCCESSFUL, 7 * DAY, batch_size=batch_size)
    return sum(pruning), dict(pruning.kept)


def in_own_transaction():
    return prune()


def in_a_transaction_of_the_caller():
    with transaction.atomic():
        return prune()


@contextmanager
def service_table(rest=""):
    kind = "integer" if connection.vendor == "sqlite" else "bigint"
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE service_row (task {kind}, FOREIGN KEY (task) "
            f"REFERENCES bgtask_task (id) {rest})"
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE service_row")


def insert_service_row(task):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO service_row VALUES (%s)", [task.pk])
