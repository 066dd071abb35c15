"""Create two million tasks by a few statements, as they might be stored after a week."""

from __future__ import annotations

import hashlib
from typing import Any

from django.db import connection

from bgtask.models import QueueHistory

DAYS = 7
QUEUES = ("default", "mail", "reports", "media", "payments", "imports")
KINDS = 20
ERRORS = 40
WORKERS = 4

_FRAME = '  File "{path}", line {line}, in {name}\n    {code}\n'


def build(rows: int) -> None:
    """
    Create tasks with their attempts and statistics. Of 100, 95 succeeded, 3 failed, 2 are live.

    Ids are in the order of enqueueing. SQL is used because a million objects would take an hour.
    """
    ended, live = rows * 98 // 100, rows * 2 // 100
    with connection.cursor() as cursor:
        _errors(cursor)
        _workers(cursor)
        _ended(cursor, ended)
        _live(cursor, ended, live)
        _attempts(cursor)
        _statistics(cursor)
        QueueHistory.objects.roll_up()  # Workers do it all week.
        cursor.execute("DROP TABLE benchmark_error")
        if connection.vendor == "postgresql":
            cursor.execute("SELECT setval('bgtask_task_id_seq', %s)", [rows])
            cursor.execute("VACUUM (ANALYZE)")
            cursor.execute("CHECKPOINT")
        else:
            cursor.execute("ANALYZE")


def _insert(cursor: Any, table: str, columns: dict[str, str], number: int, join: str = "") -> None:
    """Insert rows whose columns are SQL expressions, in which ``n`` counts from 1."""
    names, values = ", ".join(columns), ", ".join(columns.values())
    if connection.vendor == "postgresql":
        series, source = "", f"generate_series(1, {number}) AS s (n)"
    else:
        series = (
            f"WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {number}) "
        )
        source = "s"
    cursor.execute(f"INSERT INTO {table} ({names}) {series}SELECT {values} FROM {source} {join}")


def _ago(seconds: str) -> str:
    if connection.vendor == "postgresql":
        return f"(now() - ({seconds}) * interval '1 second')"
    return f"strftime('%Y-%m-%d %H:%M:%f', 'now', (-1.0 * ({seconds})) || ' seconds')"


def _minute_ago(minutes: str) -> str:
    if connection.vendor == "postgresql":
        return f"(date_trunc('minute', now()) - ({minutes}) * interval '1 minute')"
    return f"strftime('%Y-%m-%d %H:%M:00', 'now', '-' || ({minutes}) || ' minutes')"


def _false() -> str:
    return "false" if connection.vendor == "postgresql" else "0"


def _queue(kind: str) -> str:
    cases = " ".join(f"WHEN {index} THEN '{name}'" for index, name in enumerate(QUEUES))
    return f"CASE ({kind}) % {len(QUEUES)} {cases} END"


def _errors(cursor: Any) -> None:
    cursor.execute(
        "CREATE TABLE benchmark_error "
        "(k integer PRIMARY KEY, class text, fingerprint text, message text, traceback text)"
    )
    for k in range(ERRORS):
        name = f"shop.errors.Refused{k // 2}"
        message = f"gateway {k} answered 502 to order"
        frames = [
            _FRAME.format(path="/srv/venv/lib/python3.13/site-packages/bgtask/worker/executor.py",
                          line=81, name="run", code="return function(*args, **kwargs)"),
            *(
                _FRAME.format(path=f"/srv/shop/orders/step_{k}_{depth}.py", line=40 + depth,
                              name=f"step_{depth}",
                              code="return self.gateway.request(order, retries=0, strict=True)")
                for depth in range(12)
            ),
        ]  # fmt: skip
        text = f"Traceback (most recent call last):\n{''.join(frames)}{name}: {message} "
        fingerprint = hashlib.md5(name.encode() + bytes([k]), usedforsecurity=False).hexdigest()
        cursor.execute(
            "INSERT INTO benchmark_error VALUES (%s, %s, %s, %s, %s)",
            [k, name, fingerprint, message, text],
        )


def _workers(cursor: Any) -> None:
    columns = {
        "host": "'app-' || n", "pid": "4000 + n", "label": "'app-' || n || ':' || (4000 + n)",
        "queues": "''", "threads": "25", "started_at": _ago("86400"), "heartbeat_at": _ago("3"),
        "lease_expires_at": _ago("-3600"), "state": "'alive'",
    }  # fmt: skip
    _insert(cursor, "bgtask_worker", columns, WORKERS)
    for table, verb, column, value in (
        ("bgtask_taskhold", "held", "task_name", "'shop.orders.kind_19'"),
        ("bgtask_queuepause", "paused", "queue", "'imports'"),
    ):
        columns = {column: value, f"{verb}_at": _ago("3000"), f"{verb}_by": "'ann'"}
        _insert(cursor, table, {**columns, "reason": "'gateway is away'"}, 1)


def _task(**others: str) -> dict[str, str]:
    return {
        "task_name": f"'shop.orders.kind_' || (n % {KINDS})",
        "queue": _queue(f"n % {KINDS}"),
        "priority": "n % 3",
        "task_params": """'[[' || n || '], {"user_id": ' || (n % 50000) """
        """|| ', "template": "welcome", "note": "as ordered in the shop, to be sent at once"}]'""",
        "cancel_requested": _false(),
        "token": "1",
        "crashes": "0",
        **others,
    }


def _ended(cursor: Any, number: int) -> None:
    failed = "n % 98 IN (0, 33, 66)"  # Three of 98 tasks.
    age = f"({number} - n) * {DAYS * 86_400.0} / {number}"
    # Square the number, so that some errors are much more frequent than others.
    error = f"(n % 1000 * 919) % 1000 * (n % 1000 * 919 % 1000) * {ERRORS} / 1000000"
    columns = _task(
        id="n",
        status=f"CASE WHEN {failed} THEN 'FAILED' WHEN n % 1000 = 7 THEN 'CANCELLED' "
        "ELSE 'SUCCESSFUL' END",
        run_at=_ago(f"{age} + 60"),
        enqueued_at=_ago(f"{age} + 60"),
        started_at=_ago(f"{age} + 2"),
        finished_at=_ago(age),
        duration_ms="n % 1500",
        last_worker=f"'app-' || (n % {WORKERS} + 1) || ':' || (4001 + n % {WORKERS})",
        attempts=f"CASE WHEN {failed} THEN 1 + n % 25 ELSE 1 END",
        last_error="CASE WHEN e.k IS NULL THEN '' ELSE e.traceback || n END",
        error_message="e.message || ' ' || n",
        error_class="COALESCE(e.class, '')",
        error_fingerprint="COALESCE(e.fingerprint, '')",
        return_value="""CASE WHEN e.k IS NULL THEN '{"sent": true}' END""",
    )
    join = f"LEFT JOIN benchmark_error e ON e.k = CASE WHEN {failed} THEN {error} END"
    _insert(cursor, "bgtask_task", columns, number, join)


def _live(cursor: Any, ended: int, number: int) -> None:
    """Create live tasks: half READY, a third SCHEDULED (some for a retry), some HELD or RUNNING."""
    place = "(n - 1) % 400"
    status = (
        f"CASE WHEN {place} < 1 THEN 'RUNNING' WHEN {place} < 220 THEN 'READY' "
        f"WHEN {place} < 360 THEN 'SCHEDULED' ELSE 'HELD' END"
    )
    again = f"{place} >= 300 AND {place} < 360"
    running = f"{place} < 1"
    columns = _task(
        id=f"{ended} + n",
        status=status,
        held_for=f"CASE WHEN {place} >= 360 THEN 'type' END",
        run_at=f"CASE WHEN {place} >= 220 THEN {_ago('0 - n')} ELSE {_ago('n * 0.002')} END",
        enqueued_at=_ago("n * 0.002 + 1"),
        locked_by_id=f"CASE WHEN {running} THEN 1 + (n / 400) % {WORKERS} END",
        locked_at=f"CASE WHEN {running} THEN {_ago('1 + n % 40')} END",
        deadline_at=f"CASE WHEN {running} THEN {_ago('-3600')} END",
        last_worker=f"CASE WHEN {running} THEN 'app-1:4001' ELSE '' END",
        attempts=f"CASE WHEN {running} OR {again} THEN 1 ELSE 0 END",
        last_error="CASE WHEN e.k IS NULL THEN '' ELSE e.traceback || n END",
        error_message="e.message || ' ' || n",
        error_class="COALESCE(e.class, '')",
        error_fingerprint="COALESCE(e.fingerprint, '')",
    )
    columns["task_name"] = (
        f"CASE WHEN {place} >= 360 THEN 'shop.orders.kind_19' ELSE {columns['task_name']} END"
    )
    join = f"LEFT JOIN benchmark_error e ON e.k = CASE WHEN {again} THEN n % {ERRORS} END"
    _insert(cursor, "bgtask_task", columns, number, join)


def _attempts(cursor: Any) -> None:
    columns = {
        "task_id": "t.id",
        "token": "1",
        "number": "1",
        "worker": "'app-1:4001'",
        "started_at": "t.started_at",
        "finished_at": "COALESCE(t.finished_at, t.enqueued_at)",
        "outcome": "'failed'",
        "error_class": "t.error_class",
        "message": "e.message || ' ' || t.id",
        "traceback": "t.last_error",
        "error_fingerprint": "t.error_fingerprint",
    }
    cursor.execute(
        f"INSERT INTO bgtask_attempt ({', '.join(columns)}) SELECT {', '.join(columns.values())} "
        "FROM bgtask_task t JOIN benchmark_error e ON e.fingerprint = t.error_fingerprint "
        "WHERE t.error_fingerprint <> '' ORDER BY t.id"
    )


def _statistics(cursor: Any) -> None:
    minutes = DAYS * 1440
    columns = {
        "minute": _minute_ago(f"n / {KINDS}"),
        "queue": _queue(f"n % {KINDS}"),
        "task_name": f"'shop.orders.kind_' || (n % {KINDS})",
        "succeeded": "8 + n % 5", "failed": "CASE WHEN n % 7 = 0 THEN 1 ELSE 0 END",
        "retried": "0", "latency_sum": "900", "latency_max": "400", "duration_sum": "4000",
        "duration_max": "1400",
    }  # fmt: skip
    _insert(cursor, "bgtask_taskstats", columns, minutes * KINDS)
    columns = {
        "minute": _minute_ago(f"n / {len(QUEUES)}"),
        "queue": _queue(f"n % {len(QUEUES)}"),
        "ready": "100 + n % 400",
        "oldest_ready_age": "1000 + n % 9000",
    }
    _insert(cursor, "bgtask_queuestats", columns, minutes * len(QUEUES))
