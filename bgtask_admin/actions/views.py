"""Pages to confirm an action over many tasks and to watch its progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.utils.translation import gettext as _

from bgtask.models import Schedule
from bgtask_admin.actions import run, sentences
from bgtask_admin.actions.preview import Preview
from bgtask_admin.actions.registry import ACTIONS
from bgtask_admin.actions.stepping import lead_on, take_step
from bgtask_admin.actions.tables import OperationTable
from bgtask_admin.models import Operation
from bgtask_admin.permissions import VIEW, Details, check_permissions
from bgtask_admin.tasks.counts import CAP
from bgtask_admin.tasks.detail import action_of
from bgtask_admin.tasks.list import NOT_FILTERS
from bgtask_admin.tasks.pagination import page_of
from bgtask_admin.tasks.parsing import id_of
from bgtask_admin.tasks.selection import InvalidSelection, Selection
from bgtask_admin.ui.forms import ReasonForm
from bgtask_admin.ui.pages import (
    add_errors,
    admin_url,
    next_url,
    page,
    permission_required,
    post_only,
    redirect_back,
)

PAGE_ROWS = 50
# An action on a schedule stores values of its columns.
SCHEDULE_FIELDS = {field.name: field for field in Schedule._meta.concrete_fields}


@permission_required(VIEW)
def confirm(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """Show what the action would do (GET), or store the operation and start it (POST)."""
    if request.method == "POST":
        return _confirmed(request, site)
    action = action_of(request.GET.get("verb", ""))
    check_permissions(request.user, action.permission)
    try:
        preview = Preview.take(action, _selection(request))
    except InvalidSelection as error:
        add_errors(request, error)
        return redirect_back(request, admin_url(request)("bgtask_task_changelist"))
    return _page(request, site, preview, action.form(), ReasonForm(auto_id="%s"))


def _selection(request: HttpRequest) -> Selection:
    """Return the ticked tasks, or all tasks that match the filter."""
    if request.GET.get("which") == "ticked":
        ticked = ",".join(request.GET.getlist("tick"))
        if not ticked:
            raise InvalidSelection(_("No tasks selected."))
        return Selection.parse_narrow({"ids": ticked})
    selection = Selection.parse_narrow(request.GET, ignore=NOT_FILTERS)
    check_permissions(request.user, *selection.permissions)
    return selection


def _confirmed(request: HttpRequest, site: AdminSite) -> HttpResponse:
    try:
        preview = Preview.load(request.POST.get("preview", ""), request.user)
    except InvalidSelection as error:
        add_errors(request, error)
        return redirect_back(request, admin_url(request)("bgtask_task_changelist"))
    check_permissions(request.user, preview.action.permission, *preview.selection.permissions)
    form = preview.action.form(request.POST)
    reason = ReasonForm(request.POST, auto_id="%s")
    if not (form.is_valid() and reason.is_valid()):
        return _page(request, site, preview, form, reason, status=400)
    operation = run.start(preview, form.cleaned_data, user=request.user, **reason.cleaned_data)
    return lead_on(request, operation, admin_url(request)("bgtask_task_changelist"))


def _page(
    request: HttpRequest,
    site: AdminSite,
    preview: Preview,
    form: forms.Form,
    reason: ReasonForm,
    status: int = 200,
) -> HttpResponse:
    list_url = f"{admin_url(request)('bgtask_task_changelist')}?{preview.selection.query()}"
    here = next_url(request)
    verb = preview.action.verb
    return page(
        request,
        site,
        "actions/confirm.html",
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
        next=here,
        back_url=here or list_url,
    )


@permission_required(VIEW)
def operation_list(request: HttpRequest, site: AdminSite) -> HttpResponse:
    try:
        rows = page_of(
            Operation.objects.all(),
            None,
            after=request.GET.get("after", ""),
            before=request.GET.get("before", ""),
            size=PAGE_ROWS,
        )
    except ValidationError:
        raise Http404 from None
    return page(
        request,
        site,
        "actions/operation_list.html",
        title=_("Operations log"),
        nav="operations",
        rows=rows,
        table=OperationTable(
            rows.rows,
            url=admin_url(request),
            details=Details.of(request.user),
        ),
    )


@permission_required(VIEW)
def operation_page(request: HttpRequest, site: AdminSite, operation_id: str) -> HttpResponse:
    operation = _find(operation_id)
    action = ACTIONS.get(operation.verb)
    details = Details.of(request.user)
    query = _query(request, operation) if action else ""
    return page(
        request,
        site,
        "actions/operation.html",
        title=str(operation.get_verb_display()),
        nav="operations",
        operation=operation,
        words=run.filter_in_words(operation, details),
        result=run.result_in_words(operation, details),
        may_step=bool(action and request.user.has_perm(action.permission)),
        list_url=f"{admin_url(request)('bgtask_task_changelist')}?{query}" if query else "",
        options=_options(operation, details),
    )


@post_only
@permission_required(VIEW)
def operation_step(request: HttpRequest, site: AdminSite, operation_id: str) -> HttpResponse:
    """Work for about a second. Answer a script with JSON, and a button with the page."""
    operation = _find(operation_id)
    _may(request, operation)
    if "stop" in request.POST:
        run.stop(operation)
        operation.refresh_from_db()
    else:
        take_step(request, operation)
    if "application/json" in request.headers.get("Accept", ""):
        return JsonResponse(
            {
                "running": operation.is_running,
                "handled": operation.handled,
                "matched": operation.matched,
                "words": run.result_in_words(operation, Details.of(request.user)),
            }
        )
    return HttpResponseRedirect(admin_url(request)("bgtask_admin_operation_change", operation.pk))


def _query(request: HttpRequest, operation: Operation) -> str:
    """Return the query string for the list of these tasks; "" if the list would refuse it."""
    try:
        selection = Selection.parse_narrow(operation.filter_data)
    except InvalidSelection:
        return ""
    return selection.query() if request.user.has_perms(selection.permissions) else ""


def _options(operation: Operation, details: Details) -> list[tuple[str, Any]]:
    """Return the labels of the options that were set, with their values."""
    action = ACTIONS.get(operation.verb)
    fields: Mapping[str, Any] = action.form.base_fields if action else SCHEDULE_FIELDS
    return [
        (_label(fields, key), _("yes") if value is True else value)
        for key, value in operation.option_data.items()
        if value is not False and value is not None and (details.arguments or key != "task_params")
    ]


def _label(fields: Mapping[str, Any], key: str) -> str:
    field = fields.get(key)
    return str(getattr(field, "label", None) or getattr(field, "verbose_name", key))


def _may(request: HttpRequest, operation: Operation) -> None:
    action = ACTIONS.get(operation.verb)
    if action is None:
        raise PermissionDenied
    check_permissions(request.user, action.permission)


def _find(operation_id: str) -> Operation:
    operation: Operation | None = Operation.objects.filter(pk=id_of(operation_id)).first()
    if operation is None:
        raise Http404
    return operation
