"""
The kind of fault: what a task sets for its session stays for the next task of that thread.

The module is long because each kind of session change is one case of the same test.
"""

from __future__ import annotations

import json

import pytest
from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.db.models import Count, F
from django.db.models.functions import Concat, ExtractYear, Lower, Now

from bgtask import background
from bgtask.models import Task
from bgtask.signals import task_succeeded
from bgtask.worker import Runner
from bgtask.worker.connections import ConnectionGuard
from bgtask.worker.statements import may_change_session
from tests.bgtask.worker.session_changes import (
    DRIVERS_WAYS,
    OF_SESSION,
    VENDORS,
    WAYS,
    WAYS_OF_ALL,
    used,
    value_of,
)
from tests.tasks import noop

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _nothing_used():
    used.clear()
    yield
    used.clear()


@background(priority=9, max_attempts=1)
def leave(sql):
    value_of(sql)
    used.append(connection.connection)


@background(priority=9, max_attempts=1)
def leave_by(how):
    connection.ensure_connection()
    WAYS[how]()
    used.append(connection.connection)


@background(max_attempts=1)
def find(sql):
    found = value_of(sql)
    used.append(connection.connection)
    return found


SESSION = {
    "sqlite": [
        ("PRAGMA query_only=ON", "PRAGMA query_only"),
        ("pragma foreign_keys = 0", "PRAGMA foreign_keys"),
        ("/* a */ -- b\n PRAGMA synchronous=OFF", "PRAGMA synchronous"),
        ("ATTACH ':memory:' AS other", "SELECT count(*) FROM pragma_database_list"),
        ("CREATE TEMP TABLE mine (a)", "SELECT count(*) FROM sqlite_temp_master"),
        ("BEGIN", "SELECT 1"),
    ],
    "postgresql": [
        ("SET search_path TO tenant_a, public", "SHOW search_path"),
        ("SELECT 1; SET search_path TO tenant_a", "SHOW search_path"),
        ("/* who */ SELECT set_config('search_path', 'tenant_a', false)", "SHOW search_path"),
        ("WITH a AS (SELECT set_config('role', 'pg_monitor', false)) SELECT * FROM a",
         "SELECT current_user"),
        ("UPDATE pg_settings SET setting = '7s' WHERE name = 'statement_timeout'",
         "SHOW statement_timeout"),
        ("SET ROLE pg_monitor", "SELECT current_user"),
        ("SET SESSION AUTHORIZATION pg_monitor", "SELECT session_user"),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
         "SHOW default_transaction_read_only"),
        ("SELECT pg_advisory_lock(42)",
         "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"),
        ("SELECT pg_try_advisory_lock_shared(42)",
         "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"),
        ("LISTEN somebody", "SELECT count(*) FROM pg_listening_channels()"),
        ("CREATE TEMP TABLE mine (a int)",
         "SELECT count(*) FROM pg_class WHERE relpersistence = 't'"),
        ("SELECT 1 AS a INTO TEMPORARY mine",
         "SELECT count(*) FROM pg_class WHERE relpersistence = 't'"),
        ("PREPARE mine AS SELECT 1",
         "SELECT count(*) FROM pg_prepared_statements WHERE name = 'mine'"),
        ("DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
         "SELECT count(*) FROM pg_cursors WHERE name = 'mine'"),
        ("DO $$ BEGIN PERFORM set_config('work_mem', '1MB', false); END $$", "SHOW work_mem"),
        ("BEGIN", "SELECT 1"),
    ],
    "mysql": [
        ("SET SESSION sql_mode = ''", "SELECT @@sql_mode"),
        ("SET time_zone = '+07:00'", "SELECT @@time_zone"),
        ("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SELECT @@tx_isolation"),
        ("/*!50000 SET sql_mode = '' */", "SELECT @@sql_mode"),
        ("# who\nSET @mine = 7", "SELECT @mine"),
        ("SELECT @mine := 7", "SELECT @mine"),
        ("SELECT 7 INTO @mine", "SELECT @mine"),
        ("SELECT GET_LOCK('mine', 1)", "SELECT IS_USED_LOCK('mine')"),
        ("CREATE TEMPORARY TABLE mine (a int)",
         "SELECT count(*) FROM information_schema.tables WHERE table_name = 'mine'"),
        ("LOCK TABLES bgtask_queuepause READ", "SELECT @@in_transaction"),
        ("SET autocommit = 0", "SELECT @@autocommit"),
        ("BEGIN", "SELECT @@in_transaction"),
        ("START TRANSACTION READ ONLY", "SELECT @@in_transaction"),
    ],
}  # fmt: skip
CASES = [
    pytest.param(change, look, id=change, marks=pytest.mark.vendor(vendor))
    for vendor, pairs in SESSION.items()
    for change, look in pairs
]


@pytest.mark.parametrize(("change", "look"), CASES)
def test_the_next_task_starts_in_a_clean_session(change, look):
    before = value_of(look)
    leave(change)
    found = find(look)

    Runner(drain=True).run()

    found.refresh_from_db()
    assert (found.status, json.loads(found.return_value)) == ("SUCCESSFUL", before)
    assert used[0] is not used[1]


@background(priority=9, max_attempts=1)
def leave_by_driver(how):
    connection.ensure_connection()
    DRIVERS_WAYS[connection.vendor][how]()
    used.append(connection.connection)


@background(max_attempts=1)
def write():
    used.append(connection.connection)
    with transaction.atomic():
        Group.objects.create(name="written")
        return [Group.objects.get().name, value_of(OF_SESSION[connection.vendor][1])]


@pytest.fixture
def _stored_functions():
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "CREATE FUNCTION public.hurry() RETURNS text LANGUAGE sql AS"
                " $$ SELECT set_config('statement_timeout', '7s', false) $$"
            )
        if connection.vendor == "mysql":
            cursor.execute("CREATE PROCEDURE out_of_mode(n int) SET SESSION sql_mode = ''")
        yield
        if connection.vendor == "postgresql":
            cursor.execute("DROP FUNCTION public.hurry()")
        if connection.vendor == "mysql":
            cursor.execute("DROP PROCEDURE out_of_mode")


@pytest.mark.usefixtures("_stored_functions")
@pytest.mark.parametrize(
    "how",
    [pytest.param(way, marks=pytest.mark.vendor(VENDORS.get(way, "postgresql"))) for way in WAYS],
)
def test_session_change_is_noticed_in_any_way_of_execution(how):
    look = {"postgresql": "SHOW statement_timeout", "mysql": "SELECT @@sql_mode"}.get(
        connection.vendor, "SELECT 1"
    )
    before = value_of(look)
    leave_by(how)
    found = find(look)

    Runner(drain=True).run()

    found.refresh_from_db()
    assert (found.status, json.loads(found.return_value)) == ("SUCCESSFUL", before)
    assert used[0] is not used[1]


@pytest.mark.usefixtures("_stored_functions")
@pytest.mark.parametrize(
    "how",
    [
        pytest.param(way, marks=pytest.mark.vendor(vendor), id=f"{way} of {vendor}")
        for vendor, ways in DRIVERS_WAYS.items()
        for way in ways
    ],
)
def test_session_change_through_the_driver_is_noticed(how):
    """The kind of fault: a driver's connection that is changed, used or closed past Django."""
    before = value_of(OF_SESSION[connection.vendor][1])
    noop(priority=10)  # So that the change alone is what the connection has seen since.
    leave_by_driver(how)
    following = [write(), noop()]

    assert Runner(drain=True).run()

    for task in following:
        task.refresh_from_db()
        assert task.status == "SUCCESSFUL", task.last_error
    assert json.loads(following[0].return_value) == ["written", before]
    if how not in WAYS_OF_ALL:  # Those leave a connection behind, and go on with a clean one.
        assert used[-1] is not used[-2]
    assert Group.objects.get().name == "written"


@pytest.mark.vendor("postgresql")
def test_setting_changed_by_a_function_is_noticed_if_the_server_reports_it():
    """The text of the query does not tell, but PostgreSQL does."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION public.only_read() RETURNS text LANGUAGE sql AS"
            " $$ SELECT set_config('default_transaction_read_only', 'on', false) $$"
        )
    try:
        leave("SELECT only_read() FROM generate_series(1, 2)")
        found = find("SHOW default_transaction_read_only")
        Runner(drain=True).run()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION public.only_read()")

    found.refresh_from_db()
    assert found.return_value == '"off"'


@pytest.mark.vendor("postgresql")
def test_changed_session_is_not_returned_to_a_pool(monkeypatch):
    """A worker inside another process shares the pool of the driver with it."""
    connection.close()
    monkeypatch.setitem(
        connection.settings_dict["OPTIONS"], "pool", {"min_size": 1, "max_size": 12}
    )
    try:
        noop()  # From the first to the last, the same few connections are used again and again.
        leave("SET search_path TO tenant_a")
        Runner(drain=True).run()
        connection.ensure_connection()
        found = {value_of("SHOW search_path")}
        others = [connection.copy() for _ in range(3)]
        for other in others:
            with other.cursor() as cursor:
                cursor.execute("SHOW search_path")
                found.add(cursor.fetchone()[0])
        for other in others:
            other.close()
    finally:
        connection.close()
        connection.close_pool()

    assert found == {'"$user", public'}


@pytest.mark.vendor("postgresql", "mysql")
def test_unconfigured_connection_of_django_is_left_alone():
    """Django makes some for itself, with an alias that isn't configured."""
    connected = []

    def connect(**kwargs):
        with connection._nodb_cursor() as cursor:
            cursor.execute("SELECT 1")
            connected.append(cursor.fetchone()[0])

    task_succeeded.connect(connect)
    try:
        noop()
        Runner(drain=True).run()
    finally:
        task_succeeded.disconnect(connect)

    assert connected == [1]


def test_uncommitted_changes_are_rolled_back_before_the_next_task(monkeypatch):
    """A task may use a database without autocommit, if it is not the queue's."""
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "AUTOCOMMIT", False)
    try:
        guard = ConnectionGuard()
        Group.objects.create(name="not committed")
        guard.after("a task")
        connection.commit()  # By the next task.
        assert not Group.objects.exists()
    finally:
        connection.close()


@background(max_attempts=1)
def work():
    """Use the ORM as tasks ordinarily do."""
    with transaction.atomic(), transaction.atomic():
        group = Group.objects.create(name="SET x; LISTEN y; set_config(")
        Group.objects.bulk_create([Group(name=f"group {number}") for number in range(300)])
        Group.objects.select_for_update().get(pk=group.pk)
    Group.objects.filter(name=Concat(Lower("name"), F("name"))).update(name=F("name"))
    list(Group.objects.annotate(number=Count("permissions")).filter(number__gt=3))
    list(Task.objects.order_by().annotate(year=ExtractYear("run_at"), now=Now()))
    list(Group.objects.filter(user__groups__in=Group.objects.filter(name="x")).distinct())
    Group.objects.update_or_create(name="once")
    Group.objects.all().exists()
    for _ in Group.objects.iterator():
        pass
    Group.objects.all().delete()
    noop(schedule=3600)
    value_of("SELECT 1")
    used.append(connection.connection)


def test_clean_task_keeps_its_connection():
    for _ in range(3):
        work()

    Runner(drain=True).run()

    assert set(Task.objects.finished().values_list("status")) == {("SUCCESSFUL",)}
    assert used[0] is used[1] is used[2]


def test_clean_task_takes_no_additional_statement():
    connection.ensure_connection()
    guard, statements = ConnectionGuard(), []

    def count(execute, sql, params, many, context):
        statements.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(count):
        guard.before()
        Group.objects.count()
        guard.after("a task")

    assert len(statements) == 1


@background(max_attempts=1, priority=9)
def remember(tenant, connected):
    connection.close()
    if connected:
        connection.ensure_connection()
    connection.schema_name = tenant


@background(max_attempts=1)
def recall():
    return getattr(connection, "schema_name", None)


@pytest.mark.parametrize("connected", [True, False])
def test_attributes_that_a_library_sets_on_a_connection_are_removed(connected):
    """As the tenant's name of django-tenants, which sets a schema by it at the next cursor."""
    remember("tenant_a", connected)
    found = recall()

    Runner(drain=True).run()

    found.refresh_from_db()
    assert (found.status, found.return_value) == ("SUCCESSFUL", None)


def test_session_of_a_signal_receiver_does_not_affect_the_next():
    look = OF_SESSION[connection.vendor]
    before, found = value_of(look[1]), []

    def receiver(**kwargs):
        found.append(value_of(look[1]))
        value_of(look[0])

    task_succeeded.connect(receiver)
    try:
        noop()
        Runner(drain=True).run()
        noop()
        noop()
        Runner(drain=True, threads=1).run()
    finally:
        task_succeeded.disconnect(receiver)

    assert found == [before] * 3


PLAIN = [
    'SELECT "a"."id" FROM "a" WHERE "a"."x" IN (SELECT 1)',
    "(SELECT 1 FROM a) UNION (SELECT 2 FROM b)",
    "  \n/* traceparent='00' */ SELECT 1 /*x='set'*/",
    "INSERT INTO a (b) VALUES (%s), (lower(%s))",
    "INSERT INTO a (b) SELECT b FROM c ON CONFLICT DO NOTHING",
    "UPDATE a SET b = set_by(%s) WHERE c",
    "DELETE FROM a",
    "WITH RECURSIVE a AS (SELECT 1) SELECT * FROM a",
    "SAVEPOINT s1",
    "RELEASE SAVEPOINT s1",
    "ROLLBACK TO SAVEPOINT s1",
    "SELECT pg_sleep(1)",
    "SELECT pg_notify(%s, %s)",
    "SELECT pg_advisory_xact_lock(%s)",
    "SELECT nextval('a_id_seq')",
    "SELECT 1;",
]


@pytest.mark.parametrize("sql", PLAIN)
def test_ordinary_statements_do_not_change_the_session(sql):
    assert not may_change_session(sql, connection.vendor)


@pytest.mark.vendor("postgresql")
@pytest.mark.parametrize(
    "sql",
    ["SET LOCAL search_path TO a", "set constraints all deferred", "SET TRANSACTION READ ONLY"],
)
def test_transaction_settings_do_not_change_the_session(sql):
    assert not may_change_session(sql, "postgresql")
    assert may_change_session(sql, "mysql")  # There LOCAL is another word for SESSION.


@pytest.mark.parametrize("sql", [object(), b"SET a TO b", "/* open", "/* a; b */ SET a TO b"])
def test_unclear_statements_count_as_a_session_change(sql):
    assert may_change_session(sql, connection.vendor)


@pytest.mark.vendor("sqlite")
def test_a_worker_in_this_process_leaves_the_settings_of_connections_as_they_were():
    before = dict(connection.settings_dict["OPTIONS"])
    noop()

    Runner(drain=True).run()

    assert connection.settings_dict["OPTIONS"] == before
