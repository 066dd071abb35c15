"""What a database did to answer the statements that were really executed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db import connection, transaction

TABLE = "bgtask_task"
Statement = tuple[str, Any]


@dataclass
class Plan:
    """Of the table of tasks: which indexes were used, whether it was read whole, what was sorted.

    ``rows`` is how many of its rows or index entries were looked at, where the database tells.
    """

    indexes: set[str] = field(default_factory=set)
    reads_all: bool = False
    sorts: list[str] = field(default_factory=list)
    rows: int | None = None
    text: str = ""


def plan_of(action: Callable[[], Any]) -> Plan:
    """Do it, and explain every statement on the table of tasks; in the end nothing is changed."""
    statements: list[Statement] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if TABLE in sql:
            statements.append((sql, params))
        return execute(sql, params, many, context)

    with rolled_back(), connection.execute_wrapper(note):
        action()
    assert statements, "it asked the table of tasks nothing"
    explain = {"postgresql": _postgresql, "sqlite": _sqlite, "mysql": _mariadb}[connection.vendor]
    plan = Plan()
    for statement in statements:
        with rolled_back(), connection.cursor() as cursor:
            explain(cursor, *statement, plan)
    if connection.vendor == "mysql":
        plan.rows = _rows_read(action)
    return plan


class rolled_back(transaction.Atomic):  # noqa: N801  # Reads as a word: with rolled_back().
    def __init__(self) -> None:
        super().__init__(using=None, savepoint=True, durable=False)

    def __exit__(self, *args: Any) -> None:
        transaction.set_rollback(True)
        super().__exit__(*args)


def _postgresql(cursor: Any, sql: str, params: Any, plan: Plan) -> None:
    cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params)
    ((explained,),) = cursor.fetchall()
    explained = json.loads(explained) if isinstance(explained, str) else explained
    plan.text += json.dumps(explained, indent=1)
    for node, parent in _nodes(explained[0]["Plan"], ""):
        if index := node.get("Index Name"):
            plan.indexes.add(index)
        if "Sort" in node["Node Type"]:
            purpose = "for DISTINCT " if parent == "Unique" else ""
            plan.sorts.append(f"{purpose}by {node['Sort Key']}")
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] == TABLE:
            plan.reads_all = True
        if (index or "").startswith(TABLE) and index != f"{TABLE}_pkey":
            seen = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            plan.rows = (plan.rows or 0) + round(seen * node["Actual Loops"])


def _nodes(node: dict[str, Any], parent: str) -> Iterator[tuple[dict[str, Any], str]]:
    yield node, parent
    for child in node.get("Plans", ()):
        yield from _nodes(child, node["Node Type"])


def _sqlite(cursor: Any, sql: str, params: Any, plan: Plan) -> None:
    cursor.execute(f"EXPLAIN QUERY PLAN {sql}", params)
    for *_, step in cursor.fetchall():
        plan.text += f"{step}\n"
        words = step.split()
        if "INDEX" in words and words[0] in ("SCAN", "SEARCH"):
            plan.indexes.add(words[words.index("INDEX") + 1])
        elif step in (f"SCAN {TABLE}", "SCAN t"):
            plan.reads_all = True
        if "TEMP B-TREE" in step:
            plan.sorts.append(step)


def _mariadb(cursor: Any, sql: str, params: Any, plan: Plan) -> None:
    cursor.execute(f"EXPLAIN {sql}", params)
    names = [column[0] for column in cursor.description]
    for values in cursor.fetchall():
        row = dict(zip(names, values, strict=True))
        plan.text += f"{row}\n"
        if row["table"] in (TABLE, "t"):
            plan.indexes.add(row["key"])
            plan.reads_all |= row["type"] == "ALL"
        if "filesort" in (row["Extra"] or ""):
            plan.sorts.append(row["Extra"])


def _rows_read(action: Callable[[], Any]) -> int:
    with rolled_back(), connection.cursor() as cursor:

        def so_far() -> int:
            cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
            return sum(int(number) for _, number in cursor.fetchall())

        overhead = -so_far() + so_far()
        before = so_far()
        action()
        return so_far() - before - overhead
