"""Confirm an action over many tasks, and watch it being done."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.utils.translation import gettext as _

from bgtask_admin import operations, sentences
from bgtask_admin.counting import CAP
from bgtask_admin.keyset import page_of
from bgtask_admin.models import Operation
from bgtask_admin.permissions import VIEW, VIEW_ARGUMENTS, demand
from bgtask_admin.preview import Preview
from bgtask_admin.reading import id_of
from bgtask_admin.selection import InvalidSelection, Selection
from bgtask_admin.tables import OperationTable
from bgtask_admin.verbs import ACTIONS
from bgtask_admin.views.base import back, complain, needs, page, post_only, url_of, where_from
from bgtask_admin.views.stepping import lead_on, take_step
from bgtask_admin.views.task import action_of
from bgtask_admin.views.tasks import NOT_FILTERS

SIZE = 50


class ReasonForm(forms.Form):
    reason = forms.CharField(max_length=500, required=False)

    def __init__(self, data: Any = None) -> None:
        super().__init__(data, auto_id="%s")


@needs(VIEW)
def confirm(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """GET: what would be done. POST: note it down, and begin."""
    if request.method == "POST":
        return _confirmed(request, site)
    action = action_of(request.GET.get("verb", ""))
    demand(request.user, action.permission)
    try:
        preview = Preview.take(action, _selection(request))
    except InvalidSelection as error:
        complain(request, error)
        return back(request, url_of(request)("bgtask_task_changelist"))
    return _page(request, site, preview, action.form(), ReasonForm())


def _selection(request: HttpRequest) -> Selection:
    """The ticked tasks, or all that match the filter."""
    if request.GET.get("which") == "ticked":
        ticked = ",".join(request.GET.getlist("tick"))
        if not ticked:
            raise InvalidSelection(_("No tasks selected."))
        return Selection.parse_narrow({"ids": ticked})
    selection = Selection.parse_narrow(request.GET, ignore=NOT_FILTERS)
    if selection.looks_into_arguments:
        demand(request.user, VIEW_ARGUMENTS)
    return selection


def _confirmed(request: HttpRequest, site: AdminSite) -> HttpResponse:
    try:
        preview = Preview.load(request.POST.get("preview", ""), request.user)
    except InvalidSelection as error:
        complain(request, error)
        return back(request, url_of(request)("bgtask_task_changelist"))
    demand(request.user, preview.action.permission)
    if preview.selection.looks_into_arguments:
        demand(request.user, VIEW_ARGUMENTS)
    form = preview.action.form(request.POST)
    reason = ReasonForm(request.POST)
    if not (form.is_valid() and reason.is_valid()):
        return _page(request, site, preview, form, reason, status=400)
    operation = operations.start(
        preview, form.cleaned_data, user=request.user, **reason.cleaned_data
    )
    return lead_on(request, operation, url_of(request)("bgtask_task_changelist"))


def _page(
    request: HttpRequest,
    site: AdminSite,
    preview: Preview,
    form: forms.Form,
    reason: ReasonForm,
    status: int = 200,
) -> HttpResponse:
    list_url = f"{url_of(request)('bgtask_task_changelist')}?{preview.selection.query()}"
    next_url = where_from(request)
    verb = preview.action.verb
    return page(
        request,
        site,
        "confirm.html",
        status=status,
        title=str(preview.action.label),
        nav="tasks",
        preview=preview,
        action=preview.action,
        signed=preview.signed(request.user),
        form=form,
        reason=reason["reason"],
        breakdown=preview.breakdown(CAP),
        sentence=sentences.asked(verb, None if preview.matched_at_least else preview.matched),
        impossible=sentences.SENTENCES[verb].impossible,
        list_url=list_url,
        next=next_url,
        back_url=next_url or list_url,
    )


@needs(VIEW)
def operation_list(request: HttpRequest, site: AdminSite) -> HttpResponse:
    try:
        rows = page_of(
            Operation.objects.all(),
            None,
            after=request.GET.get("after", ""),
            before=request.GET.get("before", ""),
            size=SIZE,
        )
    except ValidationError:
        raise Http404 from None
    return page(
        request,
        site,
        "operation_list.html",
        title=_("Operations log"),
        nav="operations",
        rows=rows,
        table=OperationTable(
            rows.rows,
            url=url_of(request),
            with_arguments=request.user.has_perm(VIEW_ARGUMENTS),
        ),
    )


@needs(VIEW)
def operation_page(request: HttpRequest, site: AdminSite, operation_id: str) -> HttpResponse:
    operation = _find(operation_id)
    action = ACTIONS.get(operation.verb)
    may_see = request.user.has_perm(VIEW_ARGUMENTS)
    query = _query(operation, may_see) if action else ""
    return page(
        request,
        site,
        "operation.html",
        title=str(operation.get_verb_display()),
        nav="operations",
        operation=operation,
        words=operations.filter_in_words(operation, with_arguments=may_see),
        result=operations.result_in_words(operation),
        may_step=bool(action and request.user.has_perm(action.permission)),
        list_url=f"{url_of(request)('bgtask_task_changelist')}?{query}" if query else "",
        options=_options(operation),
    )


@post_only
@needs(VIEW)
def operation_step(request: HttpRequest, site: AdminSite, operation_id: str) -> HttpResponse:
    """About a second of work. A script gets figures, a button the page again."""
    operation = _find(operation_id)
    _may(request, operation)
    if "stop" in request.POST:
        operations.stop(operation)
        operation.refresh_from_db()
    else:
        take_step(request, operation)
    if "application/json" in request.headers.get("Accept", ""):
        return JsonResponse(
            {
                "running": operation.is_running,
                "handled": operation.handled,
                "matched": operation.matched,
                "words": operations.result_in_words(operation),
            }
        )
    return HttpResponseRedirect(url_of(request)("bgtask_admin_operation_change", operation.pk))


def _query(operation: Operation, with_arguments: bool) -> str:
    """Of the list of these tasks; empty, where it would be refused."""
    try:
        selection = Selection.parse_narrow(operation.filter_data)
    except InvalidSelection:
        return ""
    return "" if selection.looks_into_arguments and not with_arguments else selection.query()


def _options(operation: Operation) -> list[tuple[str, Any]]:
    """Return the labels of the options that were set, with their values."""
    action = ACTIONS.get(operation.verb)
    fields = action.form.base_fields if action else {}
    return [
        (str(fields[key].label) if key in fields else key, _("yes") if value is True else value)
        for key, value in operation.option_data.items()
        if value is not False and value is not None
    ]


def _may(request: HttpRequest, operation: Operation) -> None:
    action = ACTIONS.get(operation.verb)
    if action is None:
        raise PermissionDenied
    demand(request.user, action.permission)


def _find(operation_id: str) -> Operation:
    operation: Operation | None = Operation.objects.filter(pk=id_of(operation_id)).first()
    if operation is None:
        raise Http404
    return operation
