"""Helpers that all pages share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import Error, InterfaceError, OperationalError, connections, transaction
from django.http import (
    HttpRequest,
    HttpResponseBase,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _

from bgtask_admin.permissions import Rights, check_permissions

logger = logging.getLogger("bgtask.pages")

View = Callable[..., HttpResponseBase]


def permission_required(*permissions: str, any_of: Sequence[str] = ()) -> Callable[[View], View]:
    """Refuse users who lack one of ``permissions``, or who lack all of ``any_of``."""

    def decorate(view: View) -> View:
        @wraps(view)
        def checked(request: HttpRequest, site: AdminSite, *args: Any, **given: Any) -> Any:
            request.current_app = site.name
            check_permissions(request.user, *permissions)
            if any_of and not any(request.user.has_perm(one) for one in any_of):
                raise PermissionDenied
            return view(request, site, *args, **given)

        return checked

    return decorate


def post_only(view: View) -> View:
    @wraps(view)
    def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        return view(request, *args, **kwargs)

    return checked


def admin_url(request: HttpRequest) -> Callable[..., str]:
    """
    Return a function that reverses page names within the site that the request came to.

    Use it as ``url("bgtask_admin_error", fingerprint)``.
    """
    app = getattr(request, "current_app", None)
    return lambda name, *args: reverse(f"admin:{name}", args=args, current_app=app)


def page(
    request: HttpRequest, site: AdminSite, template: str, *, status: int = 200, **context: Any
) -> TemplateResponse:
    return TemplateResponse(
        request,
        f"bgtask_admin/{template}",
        {**site.each_context(request), "rights": Rights(request.user), **context},
        status=status,
    )


def next_url(request: HttpRequest, otherwise: str = "") -> str:
    """Return the URL of the page that the operator came from, with its filters."""
    target = request.POST.get("next") or request.GET.get("next") or ""
    allowed = url_has_allowed_host_and_scheme(
        target, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return target if allowed else otherwise


def redirect_back(request: HttpRequest, otherwise: str) -> HttpResponseRedirect:
    return HttpResponseRedirect(next_url(request, otherwise))


def add_errors(request: HttpRequest, error: ValidationError) -> None:
    for message in error.messages:
        messages.error(request, message)


def admin_view_of(view: View, site: AdminSite) -> Any:
    """
    Return the view for this site, wrapped in the site's permission check.

    The view never runs in the transaction of ATOMIC_REQUESTS. A step over many tasks commits
    several times. With two databases, the log is committed before the tasks are changed.
    """

    @wraps(view)
    def inside(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            return view(request, site, *args, **kwargs)
        except Error as error:
            if request.method != "POST":
                raise
            logger.exception("The database refused a change from the page %s.", request.path)
            return _refused(request, site, error)

    found = site.admin_view(inside)
    for alias in connections:
        transaction.non_atomic_requests(using=alias)(found)
    return found


def _refused(request: HttpRequest, site: AdminSite, error: Error) -> HttpResponseBase:
    """
    Return a page that says that the change was not made.

    The text of the error stays in the log, because it may quote arguments.
    """
    is_away = isinstance(error, OperationalError | InterfaceError)
    return page(
        request,
        site,
        "ui/refused.html",
        status=503 if is_away else 409,
        title=_("Not done"),
        kind=type(error).__name__,
        is_away=is_away,
    )
