"""Take a step of an operation, and redirect the operator to the result."""

from __future__ import annotations

from django.contrib import messages
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext as _

from bgtask_admin.actions import run
from bgtask_admin.models import Operation
from bgtask_admin.permissions import Details
from bgtask_admin.tasks.selection import InvalidSelection
from bgtask_admin.ui.pages import add_errors, admin_url, redirect_back


def take_step(request: HttpRequest, operation: Operation) -> None:
    """
    Work for about a second. If the database is busy, add a message that work remains.

    Stop an operation whose filter is not valid any more.
    """
    try:
        run.step(operation)
    except OperationalError:  # No lock was free. The chunk is rolled back, so try again.
        operation.refresh_from_db()
        messages.warning(request, _("Database busy; press Continue to retry."))
    except InvalidSelection as error:  # Its filter was stored by another release.
        run.stop(operation)
        operation.refresh_from_db()
        add_errors(request, error)


def lead_on(request: HttpRequest, operation: Operation, otherwise: str) -> HttpResponse:
    """
    Take the first step.

    Redirect to the operation's page while the operation runs, and back once it is done.
    """
    take_step(request, operation)
    if operation.is_running:
        return HttpResponseRedirect(
            admin_url(request)("bgtask_admin_operation_change", operation.pk)
        )
    words = run.result_in_words(operation, Details.of(request.user))
    tell = messages.success if operation.changed else messages.warning
    tell(request, words)
    return redirect_back(request, otherwise)
