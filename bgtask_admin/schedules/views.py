"""The pages of schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode
from zoneinfo import available_timezones

from django import forms
from django.contrib import messages
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from bgtask import registry
from bgtask.db.routing import database_now, queue_alias
from bgtask.exceptions import InvalidOption
from bgtask.models import Schedule
from bgtask.models.schedule import Source
from bgtask.schedules.definition import Definition
from bgtask_admin.permissions import (
    CHANGE_SCHEDULE,
    PAUSE_SCHEDULE,
    RUN_SCHEDULE,
    VIEW_SCHEDULE,
    Details,
    Rights,
)
from bgtask_admin.schedules import changes
from bgtask_admin.schedules.forms import ScheduleForm, initial_of
from bgtask_admin.schedules.preview import preview
from bgtask_admin.schedules.tables import (
    ScheduleTable,
    SlotTable,
    badges,
    facts_of,
    in_its_zone,
    strip,
    words_of,
)
from bgtask_admin.ui import arguments
from bgtask_admin.ui.formatting import short, visible
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
STRIP = 50
MAX_LOG = 20


class ReasonForm(forms.Form):
    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        max_length=500,
        required=False,
        help_text=gettext_lazy("Shown to other operators."),
    )


@permission_required(VIEW_SCHEDULE)
def schedule_list(request: HttpRequest, site: AdminSite) -> HttpResponse:
    search = request.GET.get("q", "").strip()[:255]
    schedules = Schedule.objects.order_by("key")
    if search:
        schedules = schedules.filter(Q(key__contains=search) | Q(task_name__contains=search))
    now = database_now(queue_alias())
    late = Schedule.objects.late().count()
    if is_late := "late" in request.GET:
        schedules = schedules.filter(pk__in=Schedule.objects.late().values("pk"))
    rows = Paginator(schedules, PAGE_ROWS).get_page(request.GET.get("page"))
    return page(
        request,
        site,
        "schedules/list.html",
        title=_("Schedules"),
        nav="schedules",
        search=search,
        late=late,
        is_late=is_late,
        page=rows,
        query=urlencode({"q": search, **({"late": "1"} if is_late else {})}),
        table=ScheduleTable(
            list(rows), url=admin_url(request), now=now, rights=Rights(request.user)
        ),
    )


@permission_required(VIEW_SCHEDULE)
def schedule_page(request: HttpRequest, site: AdminSite, schedule_id: int) -> HttpResponse:
    schedule = _find(schedule_id)
    now = database_now(queue_alias())
    slots = list(schedule.slots.order_by("-pk")[:STRIP])
    facts = facts_of([slot.task for slot in slots])
    details, rights = Details.of(request.user), Rights(request.user)
    try:
        definition = preview(Definition.of(schedule))
    except (InvalidOption, ValueError) as error:  # The row was edited by hand.
        definition = None
        messages.error(request, str(error))
    return page(
        request,
        site,
        "schedules/detail.html",
        title=visible(schedule.key),
        nav="schedules",
        schedule=schedule,
        words=words_of(schedule),
        badges=badges(schedule, now),
        in_zone=in_its_zone(schedule, schedule.next_at) if schedule.next_at else "",
        preview=definition,
        code=_code(schedule, details),
        arguments=arguments.arguments_of(schedule) if details.arguments else None,
        strip=strip(slots, facts),
        table=SlotTable(slots, facts=facts, url=admin_url(request), rights=rights),
        log=list(changes.operations_on(schedule)[:MAX_LOG]) if rights.view else [],
        now=now,
    )


def _code(schedule: Schedule, details: Details) -> list[tuple[str, str, str]]:
    """Return (name, in the code, in force) for each value that an operator has overridden."""
    if not (schedule.is_overridden and schedule.declared):
        return []
    try:
        declared, own = Definition.from_json(schedule.declared), Definition.of(schedule)
    except (TypeError, ValueError):  # The row was edited by hand.
        return []
    found = changes.differences(declared, own)
    if not details.arguments:
        found.pop(changes.PARAMETERS, None)
    labels = {field.name: str(field.verbose_name) for field in Schedule._meta.concrete_fields}
    return [(labels[name], *text.split(" → ", 1)) for name, text in found.items()]  # type: ignore[misc]


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
    schedule = _find(schedule_id)
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
    schedule = Schedule.objects.filter(pk=request.GET.get("schedule") or 0).first()
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


@permission_required(VIEW_SCHEDULE, PAUSE_SCHEDULE)
def pause(request: HttpRequest, site: AdminSite, schedule_id: int) -> HttpResponse:
    schedule = _find(schedule_id)
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
    schedule = _find(schedule_id)
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
        do()
    except ValidationError as error:
        add_errors(request, error)
        return redirect_back(request, landing)
    messages.success(request, words % short(schedule.key, 60))
    if not Schedule.objects.filter(pk=schedule.pk).exists():
        return HttpResponseRedirect(landing)
    return redirect_back(request, admin_url(request)("bgtask_schedule_change", schedule.pk))


def _to(request: HttpRequest, schedule: Schedule) -> HttpResponse:
    return HttpResponseRedirect(admin_url(request)("bgtask_schedule_change", schedule.pk))


def _find(schedule_id: int) -> Schedule:
    schedule: Schedule | None = Schedule.objects.filter(pk=schedule_id).first()
    if schedule is None:
        raise Http404(_("There is no schedule %s. It may have been deleted.") % schedule_id)
    return schedule
