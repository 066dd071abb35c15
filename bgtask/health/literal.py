from __future__ import annotations

from typing import Any

from django.db.models import Value

from bgtask.status import Status


class Literal(Value):
    """
    A status that is spelled out in the SQL.

    With a parameter, SQLite reads the row of every entry of a partial index, to check its status.
    With the text in the SQL, SQLite reads only the index.
    """

    def __init__(self, status: Status) -> None:
        super().__init__(status)

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        return f"'{self.value}'", ()
