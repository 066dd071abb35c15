"""The list of tasks: tabs, filters, search and keyset pagination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.contrib.admin import AdminSite
from django.core.exceptions import ValidationError
from django.db.models.functions import Left, Length, Right
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from bgtask import registry
from bgtask.models import Task, TaskQuerySet
from bgtask.status import FINISHED, Status
from bgtask_admin.actions.registry import offered
from bgtask_admin.permissions import VIEW, VIEW_ARGUMENTS, check_permissions
from bgtask_admin.tasks.counts import CAP, by_status, capped
from bgtask_admin.tasks.filters import TaskFilter
from bgtask_admin.tasks.pagination import KeysetPage, Order, Window, page_in
from bgtask_admin.tasks.selection import InvalidSelection, Selection
from bgtask_admin.tasks.tables import TaskTable
from bgtask_admin.ui import formatting
from bgtask_admin.ui.pages import admin_url, page, permission_required

SIZE = 50
# Keys in the query string of a list or an action that are not filters.
NOT_FILTERS = ("after", "before", "next", "verb", "which", "tick", "_changelist_filters")
LONG = 2_000  # Characters of the parameters that a list loads. It doesn't load the rest.
# If no index can find a few tasks among millions, a page looks at this number of tasks. Without
# a status it looks at the newest tasks. With a status it looks at the next tasks of the list.
NEWEST = 10_000
NEWEST_TEXTS = 2_000  # The same limit for error texts. Searching a traceback takes the longest.
MOST_DECODED = 2_000  # If more tasks may have the argument, a page looks at this number only.
TABS = (
    Status.READY, Status.SCHEDULED, Status.RUNNING, Status.HELD, Status.FAILED, Status.CANCELLED,
    Status.SUCCESSFUL,
)  # fmt: skip
# Filters without a field in the form. The form keeps them.
KEPT = ("status", "error", "fingerprint", "attempts_max", "id", "ids")
FIELDS = (
    "queue", "task", "error_class", "attempts_min", "worker", "backend", "argument", "since",
    "until",
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
    looked = ListResult()
    if not problems:
        try:
            looked = look(request, selection)
        except ValidationError as error:
            problems = error.messages
    rows = looked.page
    totals = by_status(TABS)
    if looked.matching is None and selection.status:
        looked.matching = totals[selection.status]
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
        kept_filters=[(k, v) for k, v in selection.data.items() if k in KEPT],
        form=_form(selection, request.user.has_perm(VIEW_ARGUMENTS)),
        table=TaskTable(
            rows.rows,
            url=url,
            with_arguments=request.user.has_perm(VIEW_ARGUMENTS),
            with_ticks=bool(actions),
            status=selection.status,
        ),
        rows=rows,
        matching=formatting.count(looked.matching or 0, CAP),
        matches=looked.matching or 0,
        bounded=looked.looked_at,
        searched=_searched(selection, looked),
        actions=actions if rows.rows else [],
        here=f"{request.path}?{selection.query()}",
    )


def read_selection(request: HttpRequest) -> Selection:
    selection = Selection.parse(request.GET, ignore=NOT_FILTERS)
    if selection.looks_into_arguments:
        check_permissions(request.user, VIEW_ARGUMENTS)
    return selection


def is_bounded_by_id(selection: Selection) -> bool:
    return not _is_looked_through(selection) and bool(
        selection.data.keys() - {"id", "ids", "task", "fingerprint"}
    )


def listed(selection: Selection) -> TaskQuerySet:
    """Return the tasks that may match. ``Selection.having`` checks an argument afterwards."""
    tasks = selection.candidates()
    if is_bounded_by_id(selection):
        newest = Task.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        tasks = tasks.filter(pk__gt=newest - NEWEST)
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
    looked_at: int = 0  # Number of tasks that were searched. 0: all tasks.
    is_further: bool = False  # The search didn't start at the beginning of the list.


def look(request: HttpRequest, selection: Selection) -> ListResult:
    """Return a page of the list. Raise ValidationError if the key of the page is invalid."""
    order = Order(selection.time_column, selection.status in OLDEST_FIRST)
    after, before = request.GET.get("after", ""), request.GET.get("before", "")
    stretch = Window.of(order, after, before)
    tasks = listed(selection)
    by_index = selection.only(*_indexed(selection))
    if _is_looked_through(selection) and by_index.data != selection.data:
        looked_at = NEWEST_TEXTS if "error" in selection.data else NEWEST
        stretch = stretch.no_longer_than(looked_at, listed(by_index))
        if stretch.end or selection.looks_into_arguments:
            # Read all keys at once. Finding the keys is the expensive part, and a separate
            # count would have to repeat it.
            keys = stretch.keys(tasks, 0, looked_at + 1)
            if selection.looks_into_arguments and len(keys) > MOST_DECODED:
                looked_at = MOST_DECODED
                stretch = stretch.no_longer_than(looked_at, listed(by_index))
                keys = stretch.keys(tasks, 0, looked_at + 1)
            having = set(selection.having([id_ for _, id_ in keys]))
            keys = [key for key in keys if key[1] in having]
            page = page_in(stretch, keys, SIZE, _load)
            return ListResult(
                page,
                len(keys),
                looked_at if stretch.end else 0,
                is_further=bool(after or before),
            )
    page = page_in(stretch, stretch.keys(tasks, 0, SIZE + 1), SIZE, _load)
    matching: int | None = 0
    if set(selection.data) == {"status"}:
        matching = None
    elif selection.data:
        matching = capped(tasks)
    return ListResult(page, matching, NEWEST if is_bounded_by_id(selection) else 0)


def _is_looked_through(selection: Selection) -> bool:
    """Return whether the list is searched window by window, from its beginning to its end."""
    return selection.status is not None or selection.looks_into_arguments


def _indexed(selection: Selection) -> set[str]:
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
            error_tail=Right("last_error", 300),
            params_length=Length("task_params"),
            params_head=Left("task_params", LONG),
        )
    )
    for task in tasks:
        task.is_long = task.params_length > LONG
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


def _searched(selection: Selection, looked: ListResult) -> str:
    """Return a sentence about the part of the list that was searched, or "" for all of it."""
    number = f"{looked.looked_at:,}"
    if not looked.looked_at:
        return ""
    if not selection.status and not selection.looks_into_arguments:
        words = _("Only the newest %s tasks were searched. Choose a status to search all.")
    elif looked.is_further:
        words = _("Only the next %s tasks of this list were searched. “Next” continues.")
    else:
        words = _("Only the first %s tasks of this list were searched. “Next” continues.")
    return words % number


def _form(selection: Selection, with_arguments: bool) -> list[Any]:
    form = TaskFilter(dict(selection.data), queryset=Task.objects.none()).form
    left_out = set() if with_arguments else {"argument"}
    if not registry.has_finders() and "backend" not in selection.data:
        left_out.add("backend")  # There are only background functions.
    return [form[name] for name in FIELDS if name not in left_out]
