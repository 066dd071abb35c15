"""The list of tasks: tabs, filters, search, pages by key."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import AdminSite
from django.core.exceptions import ValidationError
from django.db.models.functions import Left, Length, Right
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from bgtask.models import Task, TaskQuerySet
from bgtask.status import FINISHED, Status
from bgtask_admin import text
from bgtask_admin.filters import TaskFilter
from bgtask_admin.keyset import KeysetPage, page_of
from bgtask_admin.permissions import VIEW, VIEW_ARGUMENTS, demand
from bgtask_admin.selection import InvalidSelection, Selection
from bgtask_admin.tables import TaskTable
from bgtask_admin.verbs import offered
from bgtask_admin.views.base import needs, page, url_of

CAP = 10_000  # Nobody needs a greater number exactly, and to count on takes long.
SIZE = 50
# Besides filters, what the query string of a list or of an action may hold.
NOT_FILTERS = ("after", "before", "next", "verb", "which", "tick", "_changelist_filters")
LONG = 2_000  # Characters of arguments that a list does not load.
# Without a status there is no index to find few tasks by among millions: only so many of the
# newest are looked at.
NEWEST = 20_000
TABS = (
    Status.READY, Status.SCHEDULED, Status.RUNNING, Status.HELD, Status.FAILED, Status.CANCELLED,
    Status.SUCCESSFUL,
)  # fmt: skip
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
    rows = KeysetPage([])
    matching = 0
    tasks = Task.objects.none()
    if not problems:
        tasks = listed(selection)
        try:
            rows = _page(request, selection, tasks)
        except ValidationError as error:
            problems = error.messages
        else:
            matching = _count(tasks) if selection.data else 0
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
        tabs=_tabs(selection),
        form=_form(selection, request.user.has_perm(VIEW_ARGUMENTS)),
        table=TaskTable(
            rows.rows,
            url=url,
            with_arguments=request.user.has_perm(VIEW_ARGUMENTS),
            with_ticks=bool(actions),
            status=selection.status,
        ),
        rows=rows,
        matching=text.count(matching, CAP),
        matches=matching,
        bounded=is_bounded(selection),
        newest=NEWEST,
        actions=actions if rows.rows else [],
        here=f"{request.path}?{selection.query()}",
    )


def read_selection(request: HttpRequest) -> Selection:
    selection = Selection.parse(request.GET, ignore=NOT_FILTERS)
    if selection.looks_into_arguments:
        demand(request.user, VIEW_ARGUMENTS)
    return selection


def is_bounded(selection: Selection) -> bool:
    return selection.status is None and bool(
        selection.data.keys() - {"id", "ids", "task", "fingerprint"}
    )


def listed(selection: Selection) -> TaskQuerySet:
    tasks = selection.tasks()
    if is_bounded(selection):
        newest = Task.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        tasks = tasks.filter(pk__gt=newest - NEWEST)
    if "fingerprint" in selection.data and selection.status is None:
        tasks = tasks.filter(status=Status.FAILED)
    if selection.status in FINISHED:
        tasks = tasks.filter(finished_at__isnull=False)
    return tasks


def _page(request: HttpRequest, selection: Selection, tasks: TaskQuerySet) -> KeysetPage:
    shown = tasks.defer("last_error", "return_value", "task_params").annotate(
        error_tail=Right("last_error", 300),
        params_length=Length("task_params"),
        params_head=Left("task_params", LONG),
    )
    found = page_of(
        shown,
        selection.time_column,
        ascending=selection.status in OLDEST_FIRST,
        after=request.GET.get("after", ""),
        before=request.GET.get("before", ""),
        size=SIZE,
    )
    for task in found.rows:
        task.is_long = task.params_length > LONG
        task.task_params = task.params_head
    return found


def _count(tasks: TaskQuerySet) -> int:
    return tasks.order_by()[: CAP + 1].count()


def _tabs(selection: Selection) -> list[dict[str, Any]]:
    """With numbers of all tasks; those of the filter are said beside the list."""
    others = selection.without("status", "q", "error", "ids", "id")
    tabs = [
        {"label": _("All"), "query": others.query(), "count": "", "current": not selection.status}
    ]
    for status in TABS:
        tasks = Task.objects.filter(status=status)
        if status in FINISHED:
            tasks = tasks.filter(finished_at__isnull=False)  # So their partial index is used.
        tabs.append(
            {
                "label": status.label,
                "query": others.query(status=status.value),
                "count": text.count(_count(tasks), CAP),
                "current": status == selection.status,
            }
        )
    return tabs


def _chips(selection: Selection) -> list[dict[str, str]]:
    return [
        {"text": words, "query": selection.without(*_together(key)).query()}
        for key, words in selection.parts()
    ]


def _together(key: str) -> tuple[str, ...]:
    """Text of errors needs a status and a window: without these it goes too."""
    return (key, "error") if key in ("status", "since") else (key,)


def _form(selection: Selection, with_arguments: bool) -> list[Any]:
    form = TaskFilter(dict(selection.data), queryset=Task.objects.none()).form
    names = [name for name in FIELDS if with_arguments or name != "argument"]
    return [form[name] for name in names]
