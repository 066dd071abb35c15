"""What a button of a schedule does: pause, resume, run, restore, delete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from bgtask.exceptions import BgtaskError
from bgtask.models import Schedule, Task
from bgtask_admin.permissions import (
    CHANGE_SCHEDULE,
    PAUSE_SCHEDULE,
    RUN_SCHEDULE,
    VIEW_SCHEDULE,
)
from bgtask_admin.schedules import changes
from bgtask_admin.schedules.views import find
from bgtask_admin.ui.formatting import short
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


@permission_required(VIEW_SCHEDULE, PAUSE_SCHEDULE)
def pause(request: HttpRequest, site: AdminSite, schedule_id: int) -> HttpResponse:
    schedule = find(schedule_id)
    form = ReasonForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        reason = form.cleaned_data["reason"]
        return _done(
            request,
            schedule,
            lambda: changes.pause(schedule, user=request.user, reason=reason),
            _("Schedule %s paused."),
        )
    return page(
        request,
        site,
        "schedules/pause.html",
        title=_("Pause schedule"),
        nav="schedules",
        schedule=schedule,
        form=form,
        next=next_url(request, admin_url(request)("bgtask_schedule_change", schedule.pk)),
    )


@post_only
@permission_required(VIEW_SCHEDULE)
def act(request: HttpRequest, site: AdminSite, schedule_id: int, verb: str) -> HttpResponse:
    """Do what a button asks for, at once: resume, run, restore or delete."""
    schedule = find(schedule_id)
    permission, function, words = _ACTS[verb]
    if not request.user.has_perm(permission):
        raise PermissionDenied
    return _done(request, schedule, lambda: function(schedule, user=request.user), words)


_ACTS: dict[str, tuple[str, Callable[..., Any], Any]] = {
    "resume": (PAUSE_SCHEDULE, changes.resume, gettext_lazy("Schedule %s resumed.")),
    "run": (RUN_SCHEDULE, changes.run_now, gettext_lazy("A task of %s was enqueued.")),
    "restore": (
        CHANGE_SCHEDULE,
        changes.restore,
        gettext_lazy("Schedule %s is again as in the code."),
    ),
    "delete": (CHANGE_SCHEDULE, changes.delete, gettext_lazy("Schedule %s deleted.")),
}


def _done(
    request: HttpRequest, schedule: Schedule, do: Callable[[], object], words: Any
) -> HttpResponse:
    landing = admin_url(request)("bgtask_schedule_changelist")
    try:
        result = do()
    except ValidationError as error:
        add_errors(request, error)
        return redirect_back(request, landing)
    except BgtaskError as error:  # The row was edited by hand, or the function refuses the call.
        messages.error(request, str(error))
        return redirect_back(request, landing)
    if isinstance(result, Task) and result.was_there:
        there = _("Task %(id)s holds the unique key of this call, so no other was enqueued.")
        messages.info(request, there % {"id": result.pk})
    else:
        messages.success(request, words % short(schedule.key, 60))
    if not Schedule.objects.filter(pk=schedule.pk).exists():
        return HttpResponseRedirect(landing)
    return redirect_back(request, admin_url(request)("bgtask_schedule_change", schedule.pk))
