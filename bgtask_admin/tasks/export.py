"""Export matching tasks as CSV or JSON: streamed, limited, and safe in a spreadsheet."""

from __future__ import annotations

import csv
import json
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from itertools import islice
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.admin import AdminSite
from django.core.handlers.asgi import ASGIRequest
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from bgtask.exceptions import MalformedTask
from bgtask.models import Task, TaskQuerySet
from bgtask_admin.permissions import VIEW, VIEW_ARGUMENTS
from bgtask_admin.tasks.list import listed, read_selection
from bgtask_admin.tasks.selection import InvalidSelection
from bgtask_admin.ui.arguments import masked
from bgtask_admin.ui.pages import permission_required

MOST = 50_000
BATCH = 1_000
MOST_CHARACTERS = 32_767  # Excel cuts a longer text, or spills the rest into other cells.
BYTE_ORDER_MARK = "\ufeff"  # Without this mark, Excel reads the file as Latin-1.
FORMULA_SIGNS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
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
        tasks = listed(selection.without("argument"))
        found = selection.look(tasks)
    except InvalidSelection as error:
        return HttpResponse("\n".join(error.messages), status=400, content_type="text/plain")
    if selection.looks_into_arguments:
        tasks = tasks.filter(pk__in=found.ids)
    name = f"tasks-among-the-newest-{found.looked_at}" if found.looked_at else "tasks"
    rows = _rows(tasks, request.user.has_perm(VIEW_ARGUMENTS))
    if form == "csv":
        lines, content_type = _csv(rows), "text/csv; charset=utf-8"
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


async def _read_in_thread(lines: Iterator[str]) -> AsyncIterator[str]:
    """Yield the lines asynchronously under ASGI. A thread reads them from the database."""
    while some := await sync_to_async(lambda: list(islice(lines, BATCH)))():
        for line in some:
            yield line


def _rows(tasks: TaskQuerySet, with_arguments: bool) -> Iterator[dict[str, Any]]:
    """Yield the newest tasks first. Read in batches, so that slow clients keep no cursor open."""
    columns = [*COLUMNS, "task_params"] if with_arguments else COLUMNS
    last: int | None = None
    left = MOST
    while left > 0:
        page = tasks if last is None else tasks.filter(pk__lt=last)
        found = list(page.only(*columns).order_by("-pk")[: min(BATCH, left)])
        for task in found:
            row = {name: _plain(getattr(task, name)) for name in COLUMNS}
            if with_arguments:
                row["arguments"] = _arguments(task)
            yield row
        if len(found) < BATCH:
            return
        last = found[-1].pk
        left -= len(found)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _arguments(task: Task) -> Any:
    try:
        return masked(task.named_params())
    except MalformedTask as error:
        return str(error)


def _csv(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    writer = csv.writer(_Echo())
    header: list[str] | None = None
    yield BYTE_ORDER_MARK
    for row in rows:
        if header is None:
            header = list(row)
            yield writer.writerow(header)
        yield writer.writerow([_cell(value) for value in row.values()])
    if header is None:
        yield writer.writerow(COLUMNS)


def _cell(value: Any) -> Any:
    """
    Return the value for a cell. Mark text that a spreadsheet would read as a formula.

    Cut a text that is too long for a cell, and end it with an ellipsis.
    """
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False)
        value = value.encode("utf-8", "backslashreplace").decode()  # Escape lone surrogates.
    if isinstance(value, str):
        value = value.replace("\x00", "\ufffd")
        if value.lstrip().startswith(FORMULA_SIGNS) or value.startswith(("\t", "\r", "\n")):
            value = f"'{value}"
        if len(value) > MOST_CHARACTERS:
            value = f"{value[: MOST_CHARACTERS - 1]}…"
    return "" if value is None else value


def _json(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    separator = "[\n"
    for row in rows:
        yield f"{separator}{json.dumps(row)}"
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"
