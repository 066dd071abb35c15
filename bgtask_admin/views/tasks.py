"""The list of tasks: tabs, filters, search, pages by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.contrib.admin import AdminSite
from django.core.exceptions import ValidationError
from django.db.models.functions import Left, Length, Right
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from bgtask.models import Task, TaskQuerySet
from bgtask.status import FINISHED, Status
from bgtask_admin import text
from bgtask_admin.counting import CAP, by_status, capped
from bgtask_admin.filters import TaskFilter
from bgtask_admin.keyset import KeysetPage, Order, Stretch, page_in
from bgtask_admin.permissions import VIEW, VIEW_ARGUMENTS, demand
from bgtask_admin.selection import InvalidSelection, Selection
from bgtask_admin.tables import TaskTable
from bgtask_admin.verbs import offered
from bgtask_admin.views.base import needs, page, url_of

SIZE = 50
# Besides filters, what the query string of a list or of an action may hold.
NOT_FILTERS = ("after", "before", "next", "verb", "which", "tick", "_changelist_filters")
LONG = 2_000  # Characters of arguments that a list does not load.
# Where no index finds few tasks among millions, so many are looked at for a page: of all tasks the
# newest, of a status those that come next in the order of the list.
NEWEST = 10_000
NEWEST_TEXTS = 2_000  # To read through a traceback takes the longest.
MOST_DECODED = 2_000  # Parameters of a page; if more tasks may match, as many are looked at.
TABS = (
    Status.READY, Status.SCHEDULED, Status.RUNNING, Status.HELD, Status.FAILED, Status.CANCELLED,
    Status.SUCCESSFUL,
)  # fmt: skip
# What the form of filters has no field for, and keeps.
KEPT = ("status", "error", "fingerprint", "attempts_max", "id", "ids")
FIELDS = ("queue", "task", "error_class", "attempts_min", "worker", "argument", "since", "until")
OLDEST_FIRST = (Status.READY, Status.SCHEDULED, Status.RUNNING)


@needs(VIEW)
def task_list(request: HttpRequest, site: AdminSite) -> HttpResponse:
    problems: list[str] = []
    try:
        selection = read_selection(request)
    except InvalidSelection as error:
        # Shown as what it is: nothing, not everything.
        selection, problems = Selection({}, {}), error.messages
    looked = Looked()
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
    url = url_of(request)
    return page(
        request,
        site,
        "task_list.html",
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
        matching=text.count(looked.matching or 0, CAP),
        matches=looked.matching or 0,
        bounded=looked.looked_at,
        searched=_searched(selection, looked),
        actions=actions if rows.rows else [],
        here=f"{request.path}?{selection.query()}",
    )


def read_selection(request: HttpRequest) -> Selection:
    selection = Selection.parse(request.GET, ignore=NOT_FILTERS)
    if selection.looks_into_arguments:
        demand(request.user, VIEW_ARGUMENTS)
    return selection


def is_bounded_by_id(selection: Selection) -> bool:
    return not _is_looked_through(selection) and bool(
        selection.data.keys() - {"id", "ids", "task", "fingerprint"}
    )


def listed(selection: Selection) -> TaskQuerySet:
    """What matches; by an argument also others, about which ``Selection.having`` decides."""
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
class Looked:
    """A page of the list, and of how many."""

    page: KeysetPage = field(default_factory=lambda: KeysetPage([]))
    matching: int | None = None  # None: as many as there are of this status.
    looked_at: int = 0  # Only so many were, if not 0 …
    is_further: bool = False  # … and not from the beginning.


def look(request: HttpRequest, selection: Selection) -> Looked:
    """Raises ValidationError for a page that is none."""
    order = Order(selection.time_column, selection.status in OLDEST_FIRST)
    after, before = request.GET.get("after", ""), request.GET.get("before", "")
    stretch = Stretch.of(order, after, before)
    tasks = listed(selection)
    by_index = selection.only(*_indexed(selection))
    if _is_looked_through(selection) and by_index.data != selection.data:
        looked_at = NEWEST_TEXTS if "error" in selection.data else NEWEST
        stretch = stretch.no_longer_than(looked_at, listed(by_index))
        if stretch.end or selection.looks_into_arguments:
            # All keys at once: to find them is the work, and would be done again to count them.
            keys = stretch.keys(tasks, 0, looked_at + 1)
            if selection.looks_into_arguments and len(keys) > MOST_DECODED:
                looked_at = MOST_DECODED
                stretch = stretch.no_longer_than(looked_at, listed(by_index))
                keys = stretch.keys(tasks, 0, looked_at + 1)
            having = set(selection.having([id_ for _, id_ in keys]))
            keys = [key for key in keys if key[1] in having]
            page = page_in(stretch, keys, SIZE, _load)
            return Looked(
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
    return Looked(page, matching, NEWEST if is_bounded_by_id(selection) else 0)


def _is_looked_through(selection: Selection) -> bool:
    """Whether the list is looked at stretch by stretch, from its beginning to its end."""
    return selection.status is not None or selection.looks_into_arguments


def _indexed(selection: Selection) -> set[str]:
    """What an index in the order of the list finds by itself."""
    keys = {"status", "id", "ids"}
    if selection.time_column:
        keys |= {"since", "until"}
    if selection.status == Status.FAILED:
        keys.add("fingerprint")
    return keys


def _load(ids: Sequence[int]) -> list[Task]:
    tasks = (
        Task.objects.filter(pk__in=ids)
        .defer("last_error", "return_value", "task_params")
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
    """With numbers of all tasks; those of the filter are said beside the list."""
    others = selection.without("status", "q", "error", "ids", "id")
    tabs = [
        {"label": _("All"), "query": others.query(), "count": "", "current": not selection.status}
    ]
    tabs += [
        {
            "label": status.label,
            "query": others.query(status=status.value),
            "count": text.count(totals[status], CAP),
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
    """Text of errors needs a status and a window: without these it goes too."""
    return (key, "error") if key in ("status", "since") else (key,)


def _searched(selection: Selection, looked: Looked) -> str:
    """Say how much of the list was searched; empty, if all of it was."""
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
    names = [name for name in FIELDS if with_arguments or name != "argument"]
    return [form[name] for name in names]
