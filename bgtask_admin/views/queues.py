"""All queues, a page at a time: what the page "Queue health" does not show."""

from __future__ import annotations

from operator import attrgetter

from django.contrib.admin import AdminSite
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from bgtask import health
from bgtask_admin.permissions import MONITOR, VIEW
from bgtask_admin.views.base import needs, page
from bgtask_admin.views.landing import queue_table

QUEUES_PER_PAGE = 50
LONGEST_NAME = 100
ORDERS = ("worst", "name")
SPAN, HOURS = "1h", 1


@needs(any_of=(VIEW, MONITOR))
def queue_list(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """Show the queues whose name contains ``q``; ``order`` is "worst" (first) or "name"."""
    search = request.GET.get("q", "").strip()[:LONGEST_NAME]
    order = request.GET.get("order", "")
    order = order if order in ORDERS else ORDERS[0]
    now = health.take()
    found = [queue for queue in now.queues if search.lower() in queue.name.lower()]
    found = sorted(found, key=attrgetter("name")) if order == "name" else health.worst_first(found)
    queues = Paginator(found, QUEUES_PER_PAGE).get_page(request.GET.get("page"))
    names = [queue.name for queue in queues]
    past = health.history(HOURS, names, now=now.generated_at, series_of=names)
    return page(
        request,
        site,
        "queue_list.html",
        title=_("All queues"),
        nav="health",
        health=now,
        search=search,
        order=order,
        orders=[("worst", _("The worst first")), ("name", _("By name"))],
        found=len(found),
        page=queues,
        queues=queue_table(request, list(queues), past, SPAN),
    )
