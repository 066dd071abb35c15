"""
Check access to the monitoring endpoints.

A request needs a token, or the session of a user with the permission to monitor.
"""

from __future__ import annotations

import hashlib

from django.http import HttpRequest
from django.utils.crypto import constant_time_compare

from bgtask.conf import get_settings
from bgtask_admin.permissions import MONITOR

_NAMES = frozenset({"token", "access_token", "bearer", "authorization", "api_key", "apikey"})


class Refused(Exception):
    """
    The request may not read the figures.

    ``status`` is 401 if the request is not authenticated, 403 if it lacks the permission.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def demand_access(request: HttpRequest) -> None:
    """Raise Refused unless the request may read the figures."""
    if _has_token_in_url(request):
        # Refuse a valid token in the URL as well. Otherwise people would send tokens this way,
        # and every log would contain them.
        raise Refused(
            401, "A token does not belong in the URL. Send it as “Authorization: Bearer …”."
        )
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        if not is_token(token.strip()):
            raise Refused(
                401, _none_configured() or "This token is not one of BGTASK['MONITOR_TOKENS']."
            )
        return
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        raise Refused(
            401,
            _none_configured()
            or "Send one of BGTASK['MONITOR_TOKENS'] as “Authorization: Bearer …”, or sign in.",
        )
    if not user.has_perm(MONITOR):
        raise Refused(403, f"Your account lacks the permission {MONITOR}.")


def _none_configured() -> str:
    """Return what to do if no token is configured, or an empty text."""
    if get_settings().monitor_tokens:
        return ""
    return "No token is configured. Add one to BGTASK['MONITOR_TOKENS'], or sign in."


def is_token(given: str) -> bool:
    """
    Return whether this is one of the configured tokens.

    Compare the hashes of all tokens, so that the time it takes reveals nothing about a token.
    """
    known = [
        constant_time_compare(_hash(given), _hash(token)) for token in get_settings().monitor_tokens
    ]
    return bool(given) and any(known)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "backslashreplace")).hexdigest()


def _has_token_in_url(request: HttpRequest) -> bool:
    return any(
        name.lower() in _NAMES or any(is_token(value) for value in values)
        for name, values in request.GET.lists()
    )
