"""Export matching tasks as CSV or JSON: streamed, limited, and safe in a spreadsheet."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.admin import AdminSite
from django.core.handlers.asgi import ASGIRequest
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from bgtask.exceptions import MalformedTask
from bgtask.models import Task, TaskQuerySet
from bgtask.values import replace_unstorable
from bgtask_admin.permissions import VIEW, Details
from bgtask_admin.tasks.bounds import bounded, needs_reading
from bgtask_admin.tasks.counts import capped
from bgtask_admin.tasks.list import (
    MAX_EXPORTED_TASKS,
    WINDOW_ROWS,
    is_bounded_by_id,
    listed,
    read_selection,
)
from bgtask_admin.tasks.selection import InvalidSelection, Selection
from bgtask_admin.ui.arguments import masked
from bgtask_admin.ui.pages import permission_required

BATCH_ROWS = 1_000
MAX_CELL_CHARACTERS = 32_767  # Excel cuts a longer text, or spills the rest into other cells.
BYTE_ORDER_MARK = "\ufeff"  # Without this mark, Excel reads the file as Latin-1.
FORMULA_SIGNS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
# A spreadsheet may split lines at these characters, and so begin a cell behind them.
_INNER_FORMULA = re.compile(r"([;\t\r\n]\s*)(?=[=+\-@＝＋－＠])")
COLUMNS = (
    "id", "task_name", "verbose_name", "queue", "priority", "status", "attempts", "enqueued_at",
    "run_at", "started_at", "finished_at", "duration_ms", "last_worker", "error_class",
    "error_fingerprint", "backend",
)  # fmt: skip


class _Echo:
    def write(self, line: str) -> str:
        return line


@permission_required(VIEW)
def export(request: HttpRequest, site: AdminSite, form: str) -> HttpResponseBase:
    try:
        selection = read_selection(request)
        tasks, name = _limited(selection)
    except InvalidSelection as error:
        return HttpResponse("\n".join(error.messages), status=400, content_type="text/plain")
    details = Details.of(request.user)
    rows = _rows(tasks, details)
    if form == "csv":
        lines, content_type = _csv(rows, _header(details)), "text/csv; charset=utf-8"
    elif form == "json":
        lines, content_type = _json(rows), "application/json"
    else:
        raise Http404
    is_async = isinstance(request, ASGIRequest)
    response = StreamingHttpResponse(
        _read_in_thread(lines) if is_async else lines, content_type=content_type
    )
    response["Content-Disposition"] = f'attachment; filename="{name}.{form}"'
    return response


def _limited(selection: Selection) -> tuple[TaskQuerySet, str]:
    """Return the tasks to export, and a file name that says if these are not all that match."""
    tasks = listed(selection.without("argument"))
    searched = WINDOW_ROWS if is_bounded_by_id(selection.without("argument")) else 0
    if selection.status:
        bounds = bounded(selection, tasks, [selection.status])
        if bounds.searched and needs_reading(selection):
            tasks, searched = bounds.within(), bounds.searched
    if selection.has_argument:
        found = selection.search(tasks)
        tasks, searched = tasks.filter(pk__in=found.ids), found.searched or searched
    if capped(tasks, MAX_EXPORTED_TASKS) > MAX_EXPORTED_TASKS:
        return tasks, f"tasks-the-newest-{MAX_EXPORTED_TASKS}"
    return tasks, f"tasks-among-the-newest-{searched}" if searched else "tasks"


async def _read_in_thread(lines: Iterator[str]) -> AsyncIterator[str]:
    """Yield the lines asynchronously under ASGI. A thread reads them from the database."""
    while some := await sync_to_async(lambda: list(islice(lines, BATCH_ROWS)))():
        for line in some:
            yield line


def _header(details: Details) -> list[str]:
    """Return the names of the columns that somebody with these permissions may see."""
    return [
        *COLUMNS,
        *(["error_message"] if details.tracebacks else []),
        *(["arguments"] if details.arguments else []),
    ]


def _rows(tasks: TaskQuerySet, details: Details) -> Iterator[dict[str, Any]]:
    """Yield the newest tasks first. Read in batches, so that slow clients keep no cursor open."""
    values = {name: _value_of(name) for name in _header(details)}
    columns = ["task_params" if name == "arguments" else name for name in values]
    last: int | None = None
    left = MAX_EXPORTED_TASKS
    while left > 0:
        page = tasks if last is None else tasks.filter(pk__lt=last)
        found = list(page.only(*columns).order_by("-pk")[: min(BATCH_ROWS, left)])
        for task in found:
            yield {name: value(task) for name, value in values.items()}
        if len(found) < BATCH_ROWS:
            return
        last = found[-1].pk
        left -= len(found)


def _value_of(column: str) -> Callable[[Task], Any]:
    if column == "arguments":
        return _arguments
    return lambda task: _plain(getattr(task, column))


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _arguments(task: Task) -> Any:
    try:
        return masked(task.named_params())
    except MalformedTask as error:
        return str(error)


def _csv(rows: Iterator[dict[str, Any]], header: list[str]) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield BYTE_ORDER_MARK
    yield writer.writerow(header)
    for row in rows:
        yield writer.writerow([_cell(value) for value in row.values()])


def _cell(value: Any) -> Any:
    """
    Return the value for a cell. Mark text that a spreadsheet would read as a formula.

    Cut a text that is too long for a cell, and end it with an ellipsis.
    """
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        value = _cut(_without_formulas(replace_unstorable(value)))
    return "" if value is None else value


def _cut(text: str) -> str:
    """Cut a text that is too long for a cell. Excel counts the code units of UTF-16."""
    if len(text) <= MAX_CELL_CHARACTERS // 2:  # No character has more than two.
        return text
    units = text.encode("utf-16-le")
    if len(units) <= 2 * MAX_CELL_CHARACTERS:
        return text
    # The cut may leave half of a character at the end, which is dropped.
    return units[: 2 * (MAX_CELL_CHARACTERS - 1)].decode("utf-16-le", "ignore") + "…"


def _without_formulas(text: str) -> str:
    is_formula = text.lstrip().startswith(FORMULA_SIGNS) or text.startswith(("\t", "\r", "\n"))
    text = _INNER_FORMULA.sub(r"\1'", text)
    return f"'{text}" if is_formula else text


def _json(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    separator = "[\n"
    for row in rows:
        yield f"{separator}{json.dumps(row)}"
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"
