"""Who may read the figures: a bearer of a token, or a session with the right to monitor."""

from __future__ import annotations

import hashlib

from django.http import HttpRequest
from django.utils.crypto import constant_time_compare

from bgtask.conf import get_settings
from bgtask_admin.permissions import MONITOR

_NAMES = frozenset({"token", "access_token", "bearer", "authorization", "api_key", "apikey"})


class Refused(Exception):
    """``status`` 401: say who you are; 403: that is not enough."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def demand_access(request: HttpRequest) -> None:
    """Raise Refused unless the request may read the figures."""
    if _has_token_in_url(request):
        # Refused even if it is right, or it would be used so, and end in every log.
        raise Refused(
            401, "A token does not belong in the URL. Send it as “Authorization: Bearer …”."
        )
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        if not is_token(token.strip()):
            raise Refused(401, "This token is not one of BGTASK['MONITOR_TOKENS'].")
        return
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        raise Refused(
            401,
            "Send one of BGTASK['MONITOR_TOKENS'] as “Authorization: Bearer …”, or sign in.",
        )
    if not user.has_perm(MONITOR):
        raise Refused(403, f"Your account lacks the permission {MONITOR}.")


def is_token(given: str) -> bool:
    """Every token is compared, by its hash: the time it takes tells nothing of any."""
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
