"""Expressions of Django's ORM: the database's clock, bounded counters, and hints for planners."""

from __future__ import annotations

from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import (
    BooleanField,
    Case,
    DateTimeField,
    Expression,
    F,
    FloatField,
    Func,
    IntegerField,
    QuerySet,
    Subquery,
    Value,
    When,
)
from django.db.models.expressions import Combinable
from django.db.models.functions import Greatest, Least
from django.db.models.sql.compiler import SQLCompiler

import bgtask.db
from bgtask.db.sql import TOKEN_CEILING
from bgtask.status import Status


class DatabaseNow(Expression):
    """
    The time of the statement by the clock of the database, plus ``seconds``.

    Unlike Django's Now(), this time advances inside a transaction of PostgreSQL. On MariaDB and
    MySQL it is in the time zone of the stored datetimes.
    """

    output_field = DateTimeField()

    def __init__(self, seconds: Any = None) -> None:
        super().__init__()
        if seconds is not None and not hasattr(seconds, "resolve_expression"):
            seconds = Value(float(seconds), output_field=FloatField())
        self.seconds = seconds

    def get_source_expressions(self) -> list[Any]:
        return [self.seconds]

    def set_source_expressions(self, exprs: Any) -> None:
        (self.seconds,) = exprs

    def as_sql(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper
    ) -> tuple[str, tuple[Any, ...]]:
        operations = bgtask.db.operations_for(connection)
        if self.seconds is None:
            return operations.clock(connection), ()
        seconds, params = compiler.compile(self.seconds)
        return operations.clock(connection, seconds), tuple(params)


class SecondsSince(Expression):
    """Seconds since the time in a column, or another expression, by the clock of the database."""

    output_field = FloatField()

    def __init__(self, column: Any) -> None:
        super().__init__()
        self.column: Any = F(column) if isinstance(column, str) else column

    def get_source_expressions(self) -> list[Any]:
        return [self.column]

    def set_source_expressions(self, exprs: Any) -> None:
        (self.column,) = exprs

    def as_sql(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper
    ) -> tuple[str, tuple[Any, ...]]:
        column, params = compiler.compile(self.column)
        return bgtask.db.operations_for(connection).seconds_since(connection, column), params


class KeysetAtOrAfter(Expression):
    """Whether ``(run_at, id)`` is at or after a key whose values the database has returned."""

    output_field = BooleanField()
    conditional = True

    def __init__(self, run_at: Any, id_: int) -> None:
        super().__init__()
        self.columns: list[Any] = [F("run_at"), F("id")]
        self.key = (run_at, id_)

    def get_source_expressions(self) -> list[Any]:
        return self.columns

    def set_source_expressions(self, exprs: Any) -> None:
        self.columns = list(exprs)

    def as_sql(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper
    ) -> tuple[str, tuple[Any, ...]]:
        run_at, id_ = (compiler.compile(column)[0] for column in self.columns)
        # The first comparison is redundant, but MariaDB finds the index range only by it.
        return f"({run_at} >= %s AND ({run_at}, {id_}) >= (%s, %s))", (self.key[0], *self.key)


class StatusLiteral(Value):
    """
    A status that is spelled out in the SQL.

    With a parameter, SQLite reads the row of every entry of a partial index, to check its status.
    With the text in the SQL, SQLite reads only the index.
    """

    def __init__(self, status: Status) -> None:
        super().__init__(status)

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        return f"'{self.value}'", ()


class LimitedCount(Subquery):
    """The number of rows of a query. ``most`` + 1 means that there are more than ``most``."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) AS limited)"
    output_field = IntegerField()

    def __init__(self, rows: QuerySet[Any], most: int) -> None:
        super().__init__(rows.order_by().values("pk")[: most + 1])


class Floor(Func):
    """The whole part of a number that is never negative."""

    function = "FLOOR"
    output_field = FloatField()

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        # On SQLite, Django runs FLOOR as a Python function. CAST is SQLite's own and ten times
        # as fast. The result is the same, because the number is never negative.
        return self.as_sql(compiler, connection, template="CAST(%(expressions)s AS INTEGER)")


class WithoutIndex(Func):
    """
    Refer to a column so that SQLite doesn't use the column's index.

    SQLite assumes that every value is rare, even a frequent one.
    """

    arity = 1
    template = "%(expressions)s"

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template="+%(expressions)s")


def key_of_finished() -> Case:
    """Return the unique key that a task keeps when it is finished: none after unique_for."""
    return Case(When(unique_until__gt=DatabaseNow(), then=F("unique_key")), default=None)


# A row edited by hand must not fail other rows, so these keep the counters within their columns.


def raised_token() -> Combinable:
    """
    Return the token plus one.

    Only a claim needs a random jump, since workers only hold tokens of claims.
    """
    return Least(F("token"), Value(TOKEN_CEILING)) + Value(1)


def attempts_without_one() -> Combinable:
    """Return the attempts minus one that does not count, but at least zero."""
    return Greatest(F("attempts"), Value(1)) - Value(1)
