"""The list of tasks: tabs, filters, search and keyset pagination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.contrib.admin import AdminSite
from django.core.exceptions import ValidationError
from django.db.models.functions import Left, Length
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from bgtask import registry
from bgtask.models import Task, TaskQuerySet
from bgtask.status import FINISHED, Status
from bgtask_admin.actions.registry import offered
from bgtask_admin.permissions import VIEW, Details, check_permissions
from bgtask_admin.tasks.counts import CAP, by_status, capped
from bgtask_admin.tasks.extent import Extent, empty_text, offers
from bgtask_admin.tasks.filters import TaskFilter
from bgtask_admin.tasks.pagination import KeysetPage, Order, Window, page_in
from bgtask_admin.tasks.search import text_query
from bgtask_admin.tasks.selection import InvalidSelection, Selection
from bgtask_admin.tasks.tables import TaskTable
from bgtask_admin.ui import formatting
from bgtask_admin.ui.pages import admin_url, page, permission_required

PAGE_ROWS = 50
# Keys in the query string of a list or an action that are not filters.
NOT_FILTERS = ("after", "before", "next", "verb", "which", "tick", "_changelist_filters")
MAX_PARAMS_CHARACTERS = 2_000  # A list loads no more of a task's parameters.
# If no index can find a few tasks among millions, a page searches this number of tasks. Without
# a status it searches the newest tasks. With a status it searches the next tasks of the list.
WINDOW_ROWS = 10_000
WINDOW_TEXTS = 2_000  # The same limit for error texts. Searching a traceback takes the longest.
MAX_DECODED_TASKS = 2_000  # If more tasks may have the argument, a page searches only this number.
MAX_EXPORTED_TASKS = 50_000  # Tasks in one file.
TABS = (
    Status.READY, Status.SCHEDULED, Status.RUNNING, Status.HELD, Status.FAILED, Status.CANCELLED,
    Status.SUCCESSFUL,
)  # fmt: skip
# Filters without a field in the form. The form keeps them.
KEPT_FILTERS = ("status", "error", "fingerprint", "attempts_max", "unique", "id", "ids")
FORM_FILTERS = (
    "queue", "task", "error_class", "attempts_min", "worker", "backend", "argument",
    "since", "until",
)  # fmt: skip
OLDEST_FIRST = (Status.READY, Status.SCHEDULED, Status.RUNNING)


@permission_required(VIEW)
def task_list(request: HttpRequest, site: AdminSite) -> HttpResponse:
    problems: list[str] = []
    try:
        selection = read_selection(request)
    except InvalidSelection as error:
        # An invalid filter shows no tasks. It must not show all tasks.
        selection, problems = Selection({}, {}), error.messages
    result = ListResult()
    if not problems:
        try:
            result = find_page(request, selection)
        except ValidationError as error:
            problems = error.messages
    details = Details.of(request.user)
    rows = result.page
    totals = by_status(TABS)
    if result.matching is None and selection.status:
        result.matching = totals[selection.status]
    matching = formatting.count(result.matching or 0, CAP)
    extent = Extent(result.searched, result.is_further, by_id=is_bounded_by_id(selection))
    actions = offered(request.user, selection.status)
    url = admin_url(request)
    return page(
        request,
        site,
        "tasks/list.html",
        status=400 if problems else 200,
        title=_("Tasks"),
        nav="tasks",
        problems=problems,
        selection=selection,
        search=request.GET.get("q", "") if problems else "",
        chips=_chips(selection),
        tabs=_tabs(selection, totals),
        kept_filters=[(k, v) for k, v in selection.data.items() if k in KEPT_FILTERS],
        form=_form(selection, details.arguments),
        table=TaskTable(
            rows.rows,
            url=url,
            details=details,
            with_ticks=bool(actions),
            status=selection.status,
            empty_text=empty_text(selection, extent),
        ),
        rows=rows,
        matching=matching,
        bounded=result.searched,
        found=extent.found(result.matching or 0, matching),
        offers=offers(selection, rows.older, extent, is_empty=not rows.rows),
        text_search=_text_search(request) if problems else "",
        # An export may be longer than a file can be, or than the list has counted.
        is_export_cut=bool(result.searched)
        or max(result.matching or 0, 0 if selection.data else sum(totals.values())) > CAP,
        most_exported=MAX_EXPORTED_TASKS,
        actions=actions if rows.rows else [],
        here=f"{request.path}?{selection.query()}",
    )


def read_selection(request: HttpRequest) -> Selection:
    selection = Selection.parse(request.GET, ignore=NOT_FILTERS)
    check_permissions(request.user, *selection.permissions)
    return selection


def is_bounded_by_id(selection: Selection) -> bool:
    """Return whether no index helps, so that only the next ids are searched at a time."""
    return not _is_searched_by_window(selection) and bool(
        selection.data.keys() - {"id", "ids", "task", "fingerprint"}
    )


def listed(selection: Selection) -> TaskQuerySet:
    """Return the tasks that may match. ``Selection.having`` checks an argument afterwards."""
    tasks = _may_match(selection)
    if is_bounded_by_id(selection):
        newest = Task.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        tasks = tasks.filter(pk__gt=newest - WINDOW_ROWS)
    return tasks


def _may_match(selection: Selection) -> TaskQuerySet:
    tasks = selection.candidates()
    if "fingerprint" in selection.data and selection.status is None:
        tasks = tasks.filter(status=Status.FAILED)
    if selection.status in FINISHED:
        tasks = tasks.filter(finished_at__isnull=False)
    return tasks


@dataclass
class ListResult:
    """A page of the list, and the number of tasks that match."""

    page: KeysetPage = field(default_factory=lambda: KeysetPage([]))
    matching: int | None = None  # None: all tasks of the status match.
    searched: int = 0  # Number of tasks that were searched. 0: all tasks.
    is_further: bool = False  # The search didn't start at the beginning of the list.


def find_page(request: HttpRequest, selection: Selection) -> ListResult:
    """Return a page of the list. Raise ValidationError if the key of the page is invalid."""
    order = Order(selection.time_column, selection.status in OLDEST_FIRST)
    after, before = request.GET.get("after", ""), request.GET.get("before", "")
    window = Window.of(order, after, before)
    if is_bounded_by_id(selection):
        window = window.within_ids(WINDOW_ROWS, Task.objects.all())
        keys = window.keys(_may_match(selection), 0, WINDOW_ROWS + 1)
        return ListResult(
            page_in(window, keys, PAGE_ROWS, _load),
            len(keys),
            WINDOW_ROWS if window.end else 0,
            is_further=bool(after or before),
        )
    tasks = listed(selection)
    by_index = selection.only(*indexed(selection))
    if _is_searched_by_window(selection) and by_index.data != selection.data:
        searched = WINDOW_TEXTS if "error" in selection.data else WINDOW_ROWS
        window = window.no_longer_than(searched, listed(by_index))
        if window.end or selection.has_argument:
            # Read all keys at once. Finding the keys is the expensive part, and a separate
            # count would have to repeat it.
            keys = window.keys(tasks, 0, searched + 1)
            if selection.has_argument and len(keys) > MAX_DECODED_TASKS:
                searched = MAX_DECODED_TASKS
                window = window.no_longer_than(searched, listed(by_index))
                keys = window.keys(tasks, 0, searched + 1)
            having = set(selection.having([id_ for _, id_ in keys]))
            keys = [key for key in keys if key[1] in having]
            page = page_in(window, keys, PAGE_ROWS, _load)
            return ListResult(
                page,
                len(keys),
                searched if window.end else 0,
                is_further=bool(after or before),
            )
    page = page_in(window, window.keys(tasks, 0, PAGE_ROWS + 1), PAGE_ROWS, _load)
    matching: int | None = 0
    if set(selection.data) == {"status"}:
        matching = None
    elif selection.data:
        matching = capped(tasks)
    return ListResult(page, matching)


def _is_searched_by_window(selection: Selection) -> bool:
    """Return whether the list is searched window by window, from its beginning to its end."""
    return selection.status is not None or selection.has_argument


def indexed(selection: Selection) -> set[str]:
    """Return the filters that an index in the order of the list can answer alone."""
    keys = {"status", "id", "ids"}
    if selection.time_column:
        keys |= {"since", "until"}
    if selection.status == Status.FAILED:
        keys.add("fingerprint")
    return keys


def _load(ids: Sequence[int]) -> list[Task]:
    tasks = (
        Task.objects.filter(pk__in=ids)
        .defer("last_error", "return_value", "task_params", "result_id")
        .annotate(
            params_length=Length("task_params"),
            params_head=Left("task_params", MAX_PARAMS_CHARACTERS),
        )
    )
    for task in tasks:
        task.is_long = task.params_length > MAX_PARAMS_CHARACTERS
        task.task_params = task.params_head
    return list(tasks)


def _tabs(selection: Selection, totals: Mapping[Status, int]) -> list[dict[str, Any]]:
    """Return the tabs with the numbers of all tasks. The list itself shows the filter's number."""
    others = selection.without("status", "q", "error", "ids", "id")
    tabs = [
        {"label": _("All"), "query": others.query(), "count": "", "current": not selection.status}
    ]
    tabs += [
        {
            "label": status.label,
            "query": others.query(status=status.value),
            "count": formatting.count(totals[status], CAP),
            "current": status == selection.status,
        }
        for status in TABS
    ]
    return tabs


def _chips(selection: Selection) -> list[dict[str, str]]:
    return [
        {"text": words, "query": selection.without(*_together(key)).query()}
        for key, words in selection.phrases()
    ]


def _together(key: str) -> tuple[str, ...]:
    """
    Return the filters to remove together with this one.

    An error text needs a status and a period, so it is removed with either of them.
    """
    return (key, "error") if key in ("status", "since") else (key,)


def _text_search(request: HttpRequest) -> str:
    """Return the query that searches error texts for exactly what was typed, or "" if it can't."""
    try:
        return Selection.parse(text_query(request.GET.get("q", ""))).query()
    except InvalidSelection:
        return ""


def _form(selection: Selection, with_arguments: bool) -> list[Any]:
    form = TaskFilter(dict(selection.data), queryset=Task.objects.none()).form
    left_out = set() if with_arguments else {"argument"}
    if not registry.has_finders() and "backend" not in selection.data:
        left_out.add("backend")  # There are only background functions.
    return [form[name] for name in FORM_FILTERS if name not in left_out]
