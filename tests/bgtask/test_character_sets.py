"""On a MariaDB whose default is latin1 or utf8mb3, texts of people and errors are stored whole."""

from __future__ import annotations

import pytest
from django.db import connection

from tests.bgtask.apps import App

pytestmark = [pytest.mark.vendor("mysql"), pytest.mark.django_db(transaction=True)]

NARROW = "bgtask_narrow"
STORE = """
from datetime import UTC, datetime
from django.contrib.auth.models import User
from django.test import Client
from bgtask.models import Attempt, Task
from bgtask_admin.models import Operation
TEXT = "сломано 😀"
user = User.objects.create_superuser("ada", password="x")
client = Client()
client.force_login(user)
task = Task.objects.enqueue("greet", verbose_name=TEXT)
Task.objects.filter(pk=task.pk).update(
    last_error=TEXT, error_message=TEXT, error_class=TEXT, last_worker=TEXT)
Attempt.objects.create(task=task, token=1, number=1, worker=TEXT, finished_at=datetime.now(UTC),
    outcome="failed", error_class=TEXT, message=TEXT, traceback=TEXT)
answer = client.post("/admin/bgtask_admin/queuehealth/pause/", {"name": "q", "reason": TEXT})
assert answer.status_code == 302, answer
assert Operation.objects.get().reason == TEXT
answer = client.get("/admin/bgtask/task/", {"q": TEXT})
assert answer.status_code == 200, answer
task = Task.objects.get()
texts = {task.verbose_name, task.last_error, task.error_message, task.history.get().traceback}
print(texts == {TEXT} and "whole")
"""


@pytest.fixture(params=["latin1", "utf8mb3"])
def narrow(request):
    """Create a database with a narrow default character set, and yield its entry for DATABASES."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {NARROW} CHARACTER SET {request.param}")
        yield {"NAME": NARROW}
        cursor.execute(f"DROP DATABASE {NARROW}")


def test_texts_are_stored_whole_and_the_check_names_the_default(app: App, narrow):
    migrated = app.run("migrate", "--verbosity=0", database=narrow)
    assert migrated.returncode == 0, migrated.stderr

    stored = app.run("shell", "-c", STORE, database=narrow)
    check = app.run("check", "--database=default", database=narrow)

    assert "whole" in stored.stdout, stored.stderr
    assert check.stderr.count("(bgtask.W011)") == 1
    assert "default character set of the database" in check.stderr


def test_columns_are_created_in_utf8mb4_and_those_altered_later_are_named(app: App, narrow):
    """Kind of fault: a text column takes the narrow character set of the database."""
    to = app.run("migrate", "--verbosity=0", database=narrow)

    assert to.returncode == 0, to.stderr
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = "
            f"'{NARROW}' AND table_name LIKE 'bgtask%%' AND column_name IN ('verbose_name', "
            "'last_error', 'error_message', 'error_class', 'message', 'traceback', 'reason', 'by', "
            "'label', 'host', 'filter_words') AND character_set_name <> 'utf8mb4'",
            [],
        )
        assert cursor.fetchall() == ()
        cursor.execute(
            f"ALTER TABLE {NARROW}.bgtask_taskhold MODIFY reason varchar(500) CHARACTER SET latin1"
        )
    check = app.run("check", "--database=default", database=narrow)
    assert "Columns of the table bgtask_taskhold" in check.stderr
    assert "cannot hold every character: reason." in check.stderr


def test_a_connection_that_cannot_send_every_character_is_named(app: App):
    options = connection.settings_dict["OPTIONS"] | {"charset": "latin1"}

    check = app.run("check", "--database=default", database={"OPTIONS": options})

    assert "(bgtask.W011)" in check.stderr
    assert "uses the character set latin1" in check.stderr
