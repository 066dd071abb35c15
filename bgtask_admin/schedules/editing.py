"""The pages that add, change or override a schedule, with a preview of its slots."""

from __future__ import annotations

from typing import Any
from zoneinfo import available_timezones

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _

from bgtask import registry
from bgtask.exceptions import InvalidOption
from bgtask.models import Schedule
from bgtask.models.schedule import Source
from bgtask_admin.permissions import (
    CHANGE_SCHEDULE,
    VIEW_SCHEDULE,
    Details,
)
from bgtask_admin.schedules import changes
from bgtask_admin.schedules.forms import ScheduleForm, initial_of
from bgtask_admin.schedules.preview import preview
from bgtask_admin.schedules.views import find
from bgtask_admin.tasks.parsing import id_of
from bgtask_admin.ui.formatting import short
from bgtask_admin.ui.pages import (
    admin_url,
    page,
    permission_required,
)


@permission_required(CHANGE_SCHEDULE)
def add(request: HttpRequest, site: AdminSite) -> HttpResponse:
    form = ScheduleForm(request.POST or None, is_new=True)
    if request.method == "POST" and form.is_valid() and "preview" not in request.POST:
        try:
            schedule = changes.create(form.cleaned_data["key"], form.definition, user=request.user)
        except InvalidOption as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, _("Schedule %s added.") % short(schedule.key, 60))
            return _to(request, schedule)
    return _form_page(request, site, form, None, _("Add schedule"))


@permission_required(VIEW_SCHEDULE, CHANGE_SCHEDULE)
def change(request: HttpRequest, site: AdminSite, schedule_id: int) -> HttpResponse:
    schedule = find(schedule_id)
    form = ScheduleForm(
        request.POST or None,
        is_new=False,
        hides_arguments=not Details.of(request.user).arguments,
        initial=initial_of(schedule),
    )
    if request.method == "POST" and form.is_valid() and "preview" not in request.POST:
        try:
            changes.change(
                schedule,
                form.definition,
                user=request.user,
                reason=form.cleaned_data["reason"],
            )
        except InvalidOption as error:
            form.add_error(None, str(error))
        except ValidationError as error:
            form.add_error(None, error)
        else:
            messages.success(request, _("Schedule %s changed.") % short(schedule.key, 60))
            return _to(request, schedule)
    title = _("Override schedule") if schedule.source == Source.CODE else _("Change schedule")
    return _form_page(request, site, form, schedule, title)


@permission_required(CHANGE_SCHEDULE)
def preview_fragment(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """Return the preview alone, for a script that asks as somebody types."""
    schedule = Schedule.objects.filter(pk=id_of(request.GET.get("schedule", ""))).first()
    form = ScheduleForm(
        request.GET,
        is_new=schedule is None,
        hides_arguments=not Details.of(request.user).arguments,
        initial=initial_of(schedule) if schedule else {},
    )
    return TemplateResponse(
        request, "bgtask_admin/includes/schedule_preview.html", {**_previewed(form), "form": form}
    )


def _form_page(
    request: HttpRequest,
    site: AdminSite,
    form: ScheduleForm,
    schedule: Schedule | None,
    title: str,
) -> HttpResponse:
    back = admin_url(request)("bgtask_schedule_changelist")
    if schedule is not None:
        back = admin_url(request)("bgtask_schedule_change", schedule.pk)
    return page(
        request,
        site,
        "schedules/form.html",
        status=400 if form.is_bound and form.errors else 200,
        title=title,
        nav="schedules",
        form=form,
        schedule=schedule,
        task_names=sorted(registry.names()),
        zones=sorted(available_timezones()),
        back_url=back,
        **_previewed(form),
    )


def _previewed(form: ScheduleForm) -> dict[str, Any]:
    if form.is_bound and form.is_valid():
        return {"preview": preview(form.definition)}
    return {"preview": None}


def _to(request: HttpRequest, schedule: Schedule) -> HttpResponse:
    return HttpResponseRedirect(admin_url(request)("bgtask_schedule_change", schedule.pk))
