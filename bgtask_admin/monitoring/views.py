"""Three endpoints for machines. They only read, never redirect, and use their own format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db import DatabaseError, InterfaceError, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse
from django.utils import timezone, translation
from django.utils.cache import patch_vary_headers

import bgtask
from bgtask import health as health_
from bgtask.exceptions import InvalidOption
from bgtask.options import check_queue
from bgtask_admin.monitoring import health_json
from bgtask_admin.monitoring.access import Refused, demand_access
from bgtask_admin.monitoring.snapshot import Snapshot, Unreadable, take

Answer = Callable[[HttpRequest], HttpResponse]

# Nobody may cache, index, embed or execute these responses. The view sets the headers itself,
# because the project may have no middleware for them.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}


def endpoint(answer: Callable[[HttpRequest, Snapshot], HttpResponse]) -> Answer:
    """Return a view that checks access, handles errors and sets the headers for ``answer``."""

    # Open no transaction, even with ATOMIC_REQUESTS. If the database is not available, opening
    # one would raise an error before the view can answer.
    @login_not_required
    @transaction.non_atomic_requests
    @wraps(answer)
    def view(request: HttpRequest) -> HttpResponse:
        response = _answer(request)
        for name, value in HEADERS.items():
            response[name] = value
        patch_vary_headers(response, ("Authorization", "Cookie", "Accept"))
        return response

    def _answer(request: HttpRequest) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        try:
            demand_access(request)
            with _for_everybody():
                return answer(request, _asked_for(request, take()))
        except Unknown as unknown:
            return _json({"detail": str(unknown)}, 400)
        except Refused as refused:
            return _refused(refused)
        except Unreadable as unreadable:
            return _unreadable(str(unreadable))
        except (DatabaseError, InterfaceError) as error:  # The session can't be read.
            return _unreadable(f"The database cannot be read ({type(error).__name__}).")

    return view


@endpoint
def health(request: HttpRequest, snapshot: Snapshot) -> HttpResponse:
    """
    Answer 200 for pass and warn, 503 for fail. With ``?fail_on=warn``, answer 503 for warn too.

    With ``?queue=NAME``, once or several times, only these queues count.
    """
    failing = {"fail", *request.GET.getlist("fail_on")}
    if unknown := failing - {"fail", "warn"}:
        return _json({"detail": f"fail_on takes “fail” or “warn”, not “{min(unknown)[:50]}”."}, 400)
    status = 503 if snapshot.health.status.value in failing else 200
    return _json(health_json.as_health(snapshot), status, health_json.CONTENT_TYPE)


@endpoint
def stats(request: HttpRequest, snapshot: Snapshot) -> HttpResponse:
    """Answer 200 with all figures, even for fail. ``?queue=NAME`` works as in ``health``."""
    document = health_.as_document(snapshot.health, bgtask.__version__)
    return _json({**document, "age_seconds": round(snapshot.age, 3)})


@endpoint
def metrics(request: HttpRequest, snapshot: Snapshot) -> HttpResponse:
    """Answer with the figures for Prometheus."""
    try:
        from bgtask_admin.monitoring.metrics import exposition
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("prometheus_client"):
            raise
        return _json(
            {"detail": "Metrics need prometheus_client: pip install prometheus_client"}, 501
        )
    text, content_type = exposition(snapshot, request.headers.get("Accept", ""))
    return HttpResponse(text, content_type=content_type)


class Unknown(Exception):
    """The request has an invalid name of a queue, or too many names."""


def _asked_for(request: HttpRequest, snapshot: Snapshot) -> Snapshot:
    """Return the snapshot, reduced to the queues that the request names."""
    queues = request.GET.getlist("queue")
    if not queues:
        return snapshot
    if len(queues) > health_.MOST_QUEUES:
        raise Unknown(f"queue may be given {health_.MOST_QUEUES} times, not {len(queues)} times.")
    for name in queues:
        try:
            check_queue(name)
        except InvalidOption as error:
            raise Unknown(str(error)) from None
    return replace(snapshot, health=health_.only(snapshot.health, queues))


@contextmanager
def _for_everybody() -> Iterator[None]:
    """Use the language and time zone of the project, not those of the request."""
    with (
        translation.override(settings.LANGUAGE_CODE),
        timezone.override(timezone.get_default_timezone()),
    ):
        yield


def _refused(refused: Refused) -> HttpResponse:
    response = _json({"detail": refused.detail}, refused.status)
    if refused.status == 401:
        response["WWW-Authenticate"] = 'Bearer realm="bgtask"'
    return response


def _unreadable(output: str) -> HttpResponse:
    return _json(health_json.as_unreadable(output), 503, health_json.CONTENT_TYPE)


def _json(document: Any, status: int = 200, content_type: str = "application/json") -> HttpResponse:
    return JsonResponse(
        document,
        status=status,
        content_type=content_type,
        json_dumps_params={"ensure_ascii": False, "allow_nan": False},
    )
