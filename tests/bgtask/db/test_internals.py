"""
The parts of Django that its documentation does not promise.

If one of these tests fails after an upgrade of Django, change the function of the same name in
``bgtask/db/internals.py``.

The module is long because it has a test for each function of that module.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from django.apps import apps
from django.core.management import BaseCommand, call_command
from django.db import Error, OperationalError, connection, connections, models, transaction
from django.db.backends.utils import CursorWrapper
from django.utils import autoreload

from bgtask.db import internals
from bgtask.models import Task, TaskStats
from tests.factories import TaskFactory
from tests.models import project_models
from tests.processes import ROOT

DOCUMENTED = {"_base_manager", "_default_manager", "_meta", "_state"}
OF_PYTHON = {"os._exit"}
# Names without an underscore, and those of attributes that Django gives to bgtask's own classes.
PRIVATE = {
    "Collector", "Database", "ModelState", "create_connection", "elide_empty", "errors_occurred",
    "execute_wrappers", "find_commands", "get_candidate_relations_to_delete", "get_compiler",
    "health_check_done", "is_in_memory_db", "load_command_class", "run_on_commit",
    "run_with_reloader", "savepoint_ids", "transaction_mode", "wrap_database_errors",
    "_called_from_command_line",
}  # fmt: skip


@pytest.fixture
def separate():
    separate = internals.separate_connection("default")
    yield separate
    separate.close()


def select_one(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def private_names(source: str) -> list[str]:
    """Return the undocumented names that this code imports, reads or sets."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("django"):
            found += [one.name for one in node.names if one.name in PRIVATE or one.name[0] == "_"]
        elif isinstance(node, ast.keyword) and node.arg in PRIVATE:
            found.append(str(node.arg))
        elif isinstance(node, ast.Delete):
            # del connections[alias]
            found += [text for text in map(ast.unparse, node.targets) if "connections[" in text]
        elif isinstance(node, ast.Attribute):
            is_foreign = ast.unparse(node.value).split("(")[0] not in ("self", "cls", "super")
            is_private = node.attr.startswith("_") and not node.attr.startswith("__")
            is_known = node.attr in DOCUMENTED or ast.unparse(node) in OF_PYTHON
            if node.attr in PRIVATE or (is_foreign and is_private and not is_known):
                found.append(ast.unparse(node))
    return found


def test_no_other_module_uses_private_names_of_django():
    """Kind of fault: a new release of Django breaks bgtask in many places, and no test knows."""
    found = {
        str(path.relative_to(ROOT)): names
        for package in ("bgtask", "bgtask_admin")
        for path in sorted((ROOT / package).rglob("*.py"))
        if path != Path(internals.__file__)
        and (names := private_names(path.read_text(encoding="utf-8")))
    }

    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "rows._raw_delete('default')",
        "from django.db.models.base import ModelState",
        "connection.savepoint_ids = []",
        "query.get_compiler('default')",
        "del connections['default']",
        "if self._called_from_command_line: pass",
    ],
)
def test_the_search_for_private_names_finds_them(source):
    assert private_names(source)


@pytest.mark.django_db
def test_new_instance_is_stored_and_defers_the_fields_without_a_value():
    stored = TaskFactory(task_name="tests.tasks.add")

    task = internals.new_instance(Task, "default")
    task.__dict__["id"] = stored.pk

    assert type(task) is Task
    assert task._state.db == "default"
    assert not task._state.adding
    assert "task_name" in task.get_deferred_fields()
    assert task.task_name == "tests.tasks.add"
    task.save(update_fields=["task_name"])  # An UPDATE: an INSERT would raise IntegrityError.


@pytest.mark.django_db
def test_select_sql_is_complete_even_for_an_empty_queryset():
    for rows in (Task.objects.filter(queue="mail"), Task.objects.none()):
        sql, params = internals.select_sql(rows.values_list("id"))
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT COUNT(*) FROM ({sql}) AS found", params)
            assert cursor.fetchone() == (0,)


@pytest.mark.django_db
def test_delete_rows_deletes_only_the_rows_of_the_queryset(django_assert_num_queries):
    kept, gone = TaskFactory(queue="mail"), TaskFactory(queue="old")

    with django_assert_num_queries(1):
        assert internals.delete_rows(Task.objects.filter(queue="old")) == 1

    assert list(Task.objects.all()) == [kept]
    assert not Task.objects.filter(pk=gone.pk).exists()


@pytest.mark.vendor("sqlite")
@pytest.mark.django_db(transaction=True)
def test_immediate_transaction_takes_the_write_lock_when_it_begins(separate, monkeypatch):
    connection.ensure_connection()
    monkeypatch.setattr(connections["default"], "transaction_mode", "DEFERRED")
    with separate.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 0")
        with internals.immediate_transaction(connection):
            assert connection.in_atomic_block
            with pytest.raises(OperationalError, match="locked"):
                cursor.execute("BEGIN IMMEDIATE")

    assert connection.transaction_mode == "DEFERRED"


@pytest.mark.vendor("sqlite")
def test_a_database_in_memory_is_recognized():
    assert internals.is_in_memory(connections["other"])


@pytest.mark.vendor("mysql")
@pytest.mark.django_db
def test_isolation_level_is_the_one_that_django_sets():
    connection.ensure_connection()

    assert internals.isolation_level(connection) == "read committed"


def test_driver_of_a_connection_is_its_module():
    assert internals.driver_of(connection).apilevel == "2.0"


def test_a_separate_connection_has_its_own_settings_and_no_pool(monkeypatch):
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "pool", {"max_size": 1})

    separate = internals.separate_connection("default")

    assert separate is not connection
    assert separate.connection is None
    assert "pool" not in separate.settings_dict["OPTIONS"]
    assert "pool" in connection.settings_dict["OPTIONS"]


def test_errors_of_the_driver_are_translated():
    with pytest.raises(OperationalError), internals.translated_errors(connection):
        raise internals.driver_of(connection).OperationalError("no luck")


@pytest.mark.django_db(transaction=True)
def test_take_error_returns_true_once_after_a_failed_statement():
    connection.ensure_connection()
    internals.take_error(connection)
    with pytest.raises(Error), connection.cursor() as cursor:
        cursor.execute("SELECT nothing FROM no_such_table")

    assert internals.take_error(connection)
    assert not internals.take_error(connection)


@pytest.mark.django_db(transaction=True)
def test_a_connection_is_checked_before_its_next_use(separate, monkeypatch):
    separate.settings_dict["CONN_HEALTH_CHECKS"] = True
    separate.connect()
    checks = []
    monkeypatch.setattr(separate, "is_usable", lambda: checks.append(True) or True)
    select_one(separate)
    assert checks == []

    internals.check_before_next_use(separate)
    select_one(separate)
    select_one(separate)

    assert checks == [True]


@pytest.mark.django_db(transaction=True)
def test_a_forgotten_transaction_calls_nothing_and_lets_the_connection_close(separate):
    called = []
    separate.connect()
    separate.set_autocommit(False)
    separate.in_atomic_block = True
    separate.savepoint_ids.append("a savepoint")
    separate.on_commit(lambda: called.append(True))
    assert separate.run_on_commit

    internals.forget_transaction(separate)
    assert separate.savepoint_ids == []
    separate.run_and_clear_commit_hooks()
    assert called == []
    separate.close()

    # Inside an atomic block, close() would keep the connection.
    assert separate.connection is None


@pytest.mark.django_db(transaction=True)
def test_a_forgotten_driver_connection_is_made_again(separate):
    separate.connect()
    lost = separate.connection

    internals.forget_driver_connection(separate)
    select_one(separate)

    assert separate.connection is not lost
    lost.close()


@pytest.mark.django_db(transaction=True)
def test_replace_connection_makes_another_object():
    before = connections["default"]
    try:
        internals.replace_connection("default")

        assert connections["default"] is not before
    finally:
        connections["default"].close()
        connections["default"] = before  # Its settings are those of the test database.


@pytest.mark.django_db
def test_put_wrapper_first_replaces_the_one_of_the_same_class():
    order = []

    class Wrapper:
        def __init__(self, name):
            self.name = name

        def __call__(self, execute, *args):
            order.append(self.name)
            return execute(*args)

    def project(execute, *args):
        order.append("project")
        return execute(*args)

    try:
        with connection.execute_wrapper(project):
            internals.put_wrapper_first(connection, Wrapper("first"), Wrapper)
            internals.put_wrapper_first(connection, Wrapper("second"), Wrapper)
            with connection.cursor() as cursor:
                assert isinstance(cursor, CursorWrapper)
                cursor.execute("SELECT 1")
        assert sorted(order) == ["project", "second"]
        order.clear()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        assert order == ["second"]
    finally:
        internals.put_wrapper_first(connection, None, Wrapper)


@pytest.mark.django_db
def test_attributes_of_django_are_all_that_a_connection_has():
    connection.ensure_connection()
    kind = type(connections["default"])

    assert internals.is_djangos_own(kind)
    assert vars(connections["default"]).keys() <= internals.attributes_of_django(kind)
    library = type("DatabaseWrapper", (kind,), {"__module__": "tenants", "tenant": None})
    assert not internals.is_djangos_own(library)
    assert "tenant" not in internals.attributes_of_django(library)


def test_an_unused_connection_is_not_connected():
    made = internals.unused_connection("default")

    assert type(made) is type(connections["default"])
    assert made is not connections["default"]
    assert made.connection is None


@pytest.mark.django_db
def test_relations_to_the_task_contain_its_history():
    related = {relation.related_model.__name__ for relation in internals.relations_to(Task)}

    assert "Attempt" in related
    assert internals.relations_to(TaskStats) == []


@pytest.mark.django_db(transaction=True)
def test_referring_rows_are_collected_and_deleted_without_the_rows_themselves():
    fields = {"task": models.ForeignKey(Task, models.CASCADE, db_constraint=False)}
    with project_models(("Note", fields)) as (note,):
        task = TaskFactory()
        note.objects.create(task=task)
        collector = internals.ReferringRows("default", {Task}, lambda model: "default")
        with transaction.atomic():
            collector.collect([task])
            assert collector.collect_elsewhere() == {}
            collector.delete()

        assert "shop_note" in collector.tables
        assert not note.objects.exists()
        assert Task.objects.filter(pk=task.pk).exists()


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_referring_rows_in_another_database_are_collected_for_it():
    fields = {"task": models.ForeignKey(Task, models.CASCADE, db_constraint=False)}
    with project_models(("Note", fields), alias="other") as (note,):
        task = TaskFactory()
        note.objects.using("other").create(task_id=task.pk)
        collector = internals.ReferringRows(
            "default", {Task}, lambda model: "other" if model is note else "default"
        )
        collector.collect([task])
        elsewhere = collector.collect_elsewhere()
        elsewhere["other"].delete()

        assert elsewhere.keys() == {"other"}
        assert not note.objects.using("other").exists()


def test_a_command_knows_whether_it_comes_from_the_command_line():
    said = []

    class Command(BaseCommand):
        def handle(self, **options):
            said.append(internals.is_from_command_line(self))

    call_command(Command())
    Command().run_from_argv(["manage.py", "say"])

    assert said == [False, True]


def test_a_process_knows_whether_the_reloader_started_it(monkeypatch):
    monkeypatch.delenv(autoreload.DJANGO_AUTORELOAD_ENV, raising=False)
    assert not internals.is_restarted_by_reloader()

    monkeypatch.setenv("RUN_MAIN", "true")
    assert internals.is_restarted_by_reloader()


def test_the_reloader_accepts_a_function_and_its_options():
    # tests/system/acceptance runs the command with --reload.
    assert inspect.signature(autoreload.run_with_reloader).bind(print, sep="")
    assert callable(internals.run_with_reloader)


def test_every_function_has_a_test():
    source = Path(__file__).read_text(encoding="utf-8")
    names = [
        node.name
        for node in ast.parse(Path(internals.__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]

    assert [name for name in names if f"internals.{name}" not in source] == []


def test_commands_of_an_app_are_found_by_name():
    names = internals.command_names(apps.get_app_config("bgtask"))

    assert "process_tasks" in names
    command = internals.command_of("bgtask", "process_tasks")
    assert type(command).__module__.endswith("process_tasks") or "Run background" in command.help
