"""Ways in which a task can change the session of its connection, with Django and without."""

from __future__ import annotations

from django.db import connection, connections, transaction

used: list[object] = []  # The driver's connections, kept so that none is a new one by chance.


def value_of(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return str(cursor.fetchone()[0]) if cursor.description else None


# Settings here are those that no PostgreSQL reports: what is sent has to tell.


def _by_raw_connection(sql):
    def way():
        connection.connection.cursor().execute(sql)

    return way


def _composed():
    from psycopg import sql

    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("SET {} TO 7000").format(sql.Identifier("statement_timeout")))


def _many():
    with connection.cursor() as cursor:
        cursor.executemany("SELECT set_config(%s, %s, false)", [("statement_timeout", "7s")])


def _called(procedure, *params):
    def way():
        with connection.cursor() as cursor:
            cursor.callproc(procedure, params)

    return way


def _psycopg_execute():
    connection.connection.execute("SET statement_timeout = '7s'")


def _own_function():
    with connection.cursor() as cursor:
        cursor.execute("SELECT hurry()")


def _own_function_as_a_table():
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM public.hurry()")


def _raw_autocommit():
    connection.connection.autocommit = False


def _raw_autocommit_of_mysql():
    connection.connection.autocommit(False)


def _raw_transaction_of_sqlite():
    connection.connection.execute("BEGIN")


def _entered(make):
    """Enter a context of the driver's, and never leave it."""

    def way():
        context = make(connection.connection)
        context.__enter__()
        used.append(context)  # Or the collector would leave it.

    return way


def _own_function_by_server_cursor():
    cursor = connection.connection.cursor("mine", withhold=True)
    cursor.execute("SELECT hurry()")
    cursor.fetchone()
    cursor.close()


def _begin_below_the_driver():
    connection.connection.pgconn.exec_(b"BEGIN")


def _setting(name, value):
    def way():
        setattr(connection.connection, name, value)

    return way


def _calling(name, *args):
    def way():
        getattr(connection.connection, name)(*args)

    return way


def _another_user():
    own = connection.get_connection_params()
    raw = connection.connection
    raw.change_user(own["user"], own.get("password", ""), "information_schema")


def _two_statements():
    with connection.connection.cursor() as cursor:
        cursor.execute("SELECT 1; SET SESSION sql_mode = ''")
        cursor.nextset()


def _script_of_djangos_cursor():
    with connection.cursor() as cursor:
        cursor.executescript("SELECT 1; PRAGMA query_only = ON")


def _as_dictionaries(cursor, row):
    return {"no": "tuple"}


def _deleted():
    value_of(OF_SESSION[connection.vendor][0])
    connection.ensure_connection()
    used.append(connections["default"])
    del connections["default"]
    connection.ensure_connection()


def _deleted_in_a_transaction():
    context = transaction.atomic()
    context.__enter__()
    used.extend([context, connections["default"]])
    del connections["default"]
    connection.ensure_connection()


OF_SESSION = {
    "sqlite": ("PRAGMA query_only=ON", "PRAGMA query_only"),
    "postgresql": ("SET statement_timeout = '7s'", "SHOW statement_timeout"),
    "mysql": ("SET sql_mode = ''", "SELECT @@sql_mode"),
}
DRIVERS_WAYS = {
    "postgresql": {
        "transaction block": _entered(lambda raw: raw.transaction()),
        "below the driver": _begin_below_the_driver,
        "copy": _entered(lambda raw: raw.cursor().copy("COPY auth_group (name) FROM STDIN")),
        "pipeline": _entered(lambda raw: raw.pipeline()),
        "server-side cursor": _own_function_by_server_cursor,
        "row factory": _setting("row_factory", _as_dictionaries),
        "read only": _setting("read_only", True),
        "isolation level": _setting("isolation_level", 4),
        "closed": _calling("close"),
    },
    "mysql": {
        "two statements": _two_statements,
        "lock": _by_raw_connection("SELECT GET_LOCK('mine', 1)"),
        "variable": _by_raw_connection("SELECT 7 INTO @mine"),
        "database": _calling("select_db", "information_schema"),
        "user": _another_user,
        "character set": _calling("set_character_set", "latin1"),
        "cursor class": _setting("cursorclass", dict),
        "closed": _calling("close"),
    },
    "sqlite": {
        "pragma": _by_raw_connection("PRAGMA query_only = ON"),
        "execute": _calling("execute", "PRAGMA query_only = ON"),
        "script": _calling("executescript", "SELECT 1; PRAGMA query_only = ON"),
        "script of Django's cursor": _script_of_djangos_cursor,
        "function": _calling("create_function", "sum", 1, str),
        "row factory": _setting("row_factory", _as_dictionaries),
        "text factory": _setting("text_factory", bytes),
        "isolation level": _setting("isolation_level", "DEFERRED"),
        "closed": _calling("close"),
    },
}
WAYS_OF_ALL = {
    "deleted": _deleted,
    "deleted in a transaction": _deleted_in_a_transaction,
}
for _vendor in DRIVERS_WAYS:
    DRIVERS_WAYS[_vendor].update(WAYS_OF_ALL)


WAYS = {
    "raw cursor": _by_raw_connection("SET statement_timeout = '7s'"),
    "raw cursor of mysql": _by_raw_connection("SET sql_mode = ''"),
    "raw connection": _psycopg_execute,
    "composed": _composed,
    "executemany": _many,
    "callproc": _called("set_config", "statement_timeout", "7s", False),
    "callproc of mysql": _called("out_of_mode", 1),
    "function": _own_function,
    "function as a table": _own_function_as_a_table,
    "raw autocommit": _raw_autocommit,
    "raw autocommit of mysql": _raw_autocommit_of_mysql,
    "raw transaction of sqlite": _raw_transaction_of_sqlite,
}
VENDORS = {
    "raw cursor of mysql": "mysql",
    "callproc of mysql": "mysql",
    "raw autocommit of mysql": "mysql",
    "raw transaction of sqlite": "sqlite",
}
