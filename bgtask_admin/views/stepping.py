"""Take a step of an operation, and lead the operator to what came of it."""

from __future__ import annotations

from django.contrib import messages
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext as _

from bgtask_admin import operations
from bgtask_admin.models import Operation
from bgtask_admin.views.base import back, url_of


def take_step(request: HttpRequest, operation: Operation) -> None:
    """Do about a second of work. Where the database is busy, say that the rest is still to do."""
    try:
        operations.step(operation)
    except OperationalError:  # A lock that could not be had: what was begun is undone, try again.
        operation.refresh_from_db()
        messages.warning(request, _("Database busy; press Continue to retry."))


def lead_on(request: HttpRequest, operation: Operation, otherwise: str) -> HttpResponse:
    """Take the first step. Lead to the operation's page while it runs, and back once it is done."""
    take_step(request, operation)
    if operation.is_running:
        return HttpResponseRedirect(url_of(request)("bgtask_admin_operation_change", operation.pk))
    words = operations.result_in_words(operation)
    tell = messages.success if operation.changed else messages.warning
    tell(request, words)
    return back(request, otherwise)
