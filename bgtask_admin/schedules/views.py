"""The list of schedules, and the page of one with its history."""

from __future__ import annotations

from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from bgtask.db.routing import database_now, queue_alias
from bgtask.exceptions import InvalidOption
from bgtask.models import Schedule
from bgtask.schedules.definition import Definition
from bgtask_admin.permissions import (
    VIEW_SCHEDULE,
    Details,
    Rights,
)
from bgtask_admin.schedules import changes
from bgtask_admin.schedules.preview import preview
from bgtask_admin.schedules.tables import (
    ScheduleTable,
    SlotTable,
    badges,
    facts_of,
    in_its_zone,
    late_among,
    strip,
    words_of,
)
from bgtask_admin.ui import arguments
from bgtask_admin.ui.formatting import visible
from bgtask_admin.ui.pages import (
    admin_url,
    page,
    permission_required,
)

PAGE_ROWS = 50
STRIP = 50
MAX_LOG = 20


@permission_required(VIEW_SCHEDULE)
def schedule_list(request: HttpRequest, site: AdminSite) -> HttpResponse:
    search = request.GET.get("q", "").replace("\x00", "").strip()[:255]
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
    schedule = find(schedule_id)
    now = database_now(queue_alias())
    slots = list(schedule.slots.order_by("-pk")[:STRIP])
    facts = facts_of([slot.task for slot in slots])
    details, rights = Details.of(request.user), Rights(request.user)
    try:
        definition = preview(Definition.of(schedule))
    except InvalidOption as error:  # The row was edited by hand.
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
        badges=badges(schedule, now, late_among([schedule])),
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


def find(schedule_id: int) -> Schedule:
    schedule: Schedule | None = Schedule.objects.filter(pk=schedule_id).first()
    if schedule is None:
        raise Http404(_("There is no schedule %s. It may have been deleted.") % schedule_id)
    return schedule
