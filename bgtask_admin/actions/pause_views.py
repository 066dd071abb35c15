"""Pages that hold a task type, pause a queue, and rescue the tasks of a dead worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin import AdminSite
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from bgtask.models import Worker
from bgtask.status import WAITING, Status
from bgtask_admin.actions import pauses
from bgtask_admin.actions.stepping import lead_on
from bgtask_admin.permissions import HOLD, PAUSE, REQUEUE
from bgtask_admin.tasks.counts import CAP, by_status
from bgtask_admin.ui.formatting import count, short, visible
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


class StopForm(ReasonForm):
    # A RegexField keeps blanks at both ends. Names of tasks and queues are compared exactly.
    name = forms.RegexField(r"\S", max_length=255, widget=forms.HiddenInput)
    minutes = forms.IntegerField(
        label=gettext_lazy("Duration (minutes)"),
        required=False,
        min_value=1,
        max_value=525_600,
        help_text=gettext_lazy("Leave blank for no end."),
    )


class PauseForm(StopForm):
    name = forms.RegexField(r"\S", max_length=100, widget=forms.HiddenInput)


def _name(request: HttpRequest, form: type[StopForm] = StopForm) -> str:
    """Return the name from the request. Raise Http404 if no row can have this name."""
    given = request.POST if request.method == "POST" else request.GET
    try:
        name: str = form.base_fields["name"].clean(given.get("name"))
    except ValidationError as error:
        raise Http404(" ".join(error.messages)) from None
    return name


@permission_required(HOLD)
def hold_type(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """Explain what a hold does (GET), or hold the task type (POST)."""

    def do(name: str, reason: str, minutes: int | None) -> HttpResponse:
        operation = pauses.hold_type(name, user=request.user, reason=reason, minutes=minutes)
        messages.success(request, _("Tasks of type %s are on hold.") % name)
        return lead_on(request, operation, _landing(request))

    return _stop(
        request,
        site,
        do,
        StopForm,
        title=_("Hold task type"),
        question=_("Hold all tasks of type {name}?"),
        waiting=lambda name: by_status(WAITING, task_name=name),
        button=_("Hold %s"),
        explanation=_(
            "Waiting and new tasks of this type are held. Running ones continue. "
            "Other types in the queue are not affected."
        ),
    )


@permission_required(PAUSE)
def pause(request: HttpRequest, site: AdminSite) -> HttpResponse:
    def do(name: str, reason: str, minutes: int | None) -> HttpResponse:
        pauses.pause(name, user=request.user, reason=reason, minutes=minutes)
        messages.success(request, _("Queue %s paused.") % name)
        return redirect_back(request, _landing(request))

    return _stop(
        request,
        site,
        do,
        PauseForm,
        title=_("Pause queue"),
        question=_("Pause queue {name}?"),
        waiting=lambda name: by_status([Status.READY], queue=name),
        button=_("Pause %s"),
        explanation=_("Waiting tasks stay in the queue. Running tasks continue."),
    )


def _stop(
    request: HttpRequest,
    site: AdminSite,
    do: Callable[[str, str, int | None], HttpResponse],
    kind: type[StopForm],
    *,
    question: str,
    button: str,
    waiting: Callable[[str], Mapping[Status, int]],
    **context: Any,
) -> HttpResponse:
    name = _name(request, kind)
    form = kind(request.POST) if request.method == "POST" else kind(initial={"name": name})
    if form.is_valid():
        return do(name, form.cleaned_data["reason"], form.cleaned_data["minutes"])
    return page(
        request,
        site,
        "actions/pause.html",
        status=400 if form.is_bound else 200,
        nav="health",
        form=form,
        question=format_html(question, name=format_html("<strong>{}</strong>", visible(name))),
        button=button % short(name, 60),
        number=count(sum(waiting(name).values()), CAP),
        next=next_url(request, _landing(request)),
        **context,
    )


@post_only
@permission_required(HOLD)
def release_type(request: HttpRequest, site: AdminSite) -> HttpResponse:
    name = _name(request)
    operation = pauses.release_type(name, user=request.user)
    messages.success(request, _("Hold on %s released.") % name)
    return lead_on(request, operation, _landing(request))


@post_only
@permission_required(PAUSE)
def resume(request: HttpRequest, site: AdminSite) -> HttpResponse:
    name = _name(request, PauseForm)
    pauses.resume(name, user=request.user)
    messages.success(request, _("Queue %s resumed.") % name)
    return redirect_back(request, _landing(request))


@post_only
@permission_required(REQUEUE)
def release_worker(request: HttpRequest, site: AdminSite, worker_id: int) -> HttpResponse:
    worker = Worker.objects.filter(pk=worker_id).first()
    if worker is None:
        raise Http404
    try:
        operation = pauses.release_tasks_of(worker, user=request.user)
    except ValidationError as error:
        add_errors(request, error)
    else:
        messages.success(
            request,
            ngettext(
                "%(count)s task returned to the queue from %(worker)s.",
                "%(count)s tasks returned to the queue from %(worker)s.",
                operation.changed,
            )
            % {"count": f"{operation.changed:,}", "worker": worker},
        )
    return redirect_back(request, _landing(request))


def _landing(request: HttpRequest) -> str:
    return admin_url(request)("bgtask_admin_queuehealth_changelist")
