"""Hold a kind of task, pause a queue, take back what a dead worker holds."""

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
from bgtask_admin import stops
from bgtask_admin.counting import CAP, by_status
from bgtask_admin.permissions import HOLD, PAUSE, REQUEUE
from bgtask_admin.text import count, short, visible
from bgtask_admin.views.base import back, complain, needs, page, post_only, url_of, where_from
from bgtask_admin.views.stepping import lead_on


class StopForm(forms.Form):
    # To the letter, blanks at its ends too: tasks are compared so.
    name = forms.RegexField(r"\S", max_length=255, widget=forms.HiddenInput)
    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        max_length=500,
        required=False,
        help_text=gettext_lazy("Shown to other operators."),
    )
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
    """Raises Http404 for what no row can be named."""
    given = request.POST if request.method == "POST" else request.GET
    try:
        name: str = form.base_fields["name"].clean(given.get("name"))
    except ValidationError as error:
        raise Http404(" ".join(error.messages)) from None
    return name


@needs(HOLD)
def hold_type(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """GET: say what it means. POST: hold."""

    def do(name: str, reason: str, minutes: int | None) -> HttpResponse:
        operation = stops.hold_type(name, user=request.user, reason=reason, minutes=minutes)
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


@needs(PAUSE)
def pause(request: HttpRequest, site: AdminSite) -> HttpResponse:
    def do(name: str, reason: str, minutes: int | None) -> HttpResponse:
        stops.pause(name, user=request.user, reason=reason, minutes=minutes)
        messages.success(request, _("Queue %s paused.") % name)
        return back(request, _landing(request))

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
        "stop.html",
        status=400 if form.is_bound else 200,
        nav="health",
        form=form,
        question=format_html(question, name=format_html("<strong>{}</strong>", visible(name))),
        button=button % short(name, 60),
        number=count(sum(waiting(name).values()), CAP),
        next=where_from(request, _landing(request)),
        **context,
    )


@post_only
@needs(HOLD)
def release_type(request: HttpRequest, site: AdminSite) -> HttpResponse:
    name = _name(request)
    operation = stops.release_type(name, user=request.user)
    messages.success(request, _("Hold on %s released.") % name)
    return lead_on(request, operation, _landing(request))


@post_only
@needs(PAUSE)
def resume(request: HttpRequest, site: AdminSite) -> HttpResponse:
    name = _name(request, PauseForm)
    stops.resume(name, user=request.user)
    messages.success(request, _("Queue %s resumed.") % name)
    return back(request, _landing(request))


@post_only
@needs(REQUEUE)
def release_worker(request: HttpRequest, site: AdminSite, worker_id: int) -> HttpResponse:
    worker = Worker.objects.filter(pk=worker_id).first()
    if worker is None:
        raise Http404
    try:
        operation = stops.release_tasks_of(worker, user=request.user)
    except ValidationError as error:
        complain(request, error)
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
    return back(request, _landing(request))


def _landing(request: HttpRequest) -> str:
    return url_of(request)("bgtask_admin_queuehealth_changelist")
