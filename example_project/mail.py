"""Send mails into files that a mail program opens, or to a server that a URL names."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends import filebased
from django.utils.text import get_valid_filename


class EmlBackend(filebased.EmailBackend):
    """Django's backend for files, but with a separate file for each message."""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        for message in email_messages:
            self._path(message).write_bytes(message.message().as_bytes())
        return len(email_messages)

    def _path(self, message: EmailMessage) -> Path:
        sent = datetime.now().strftime("%Y%m%d-%H%M%S")
        # An address may contain nearly anything, slashes too.
        addressee = get_valid_filename(message.recipients()[0])
        return Path(self.file_path) / f"{sent}-{addressee}-{uuid4().hex[:8]}.eml"


def mailer_from_url(url: str) -> dict[str, Any]:
    """
    Return ``smtp://user:password@host:port`` as an entry of Django's MAILERS.

    ``smtp+tls`` begins without encryption and then starts TLS. ``smtps`` is encrypted from the
    start. Raise ImproperlyConfigured if the URL is wrong. The error doesn't repeat the password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ImproperlyConfigured(f"EMAIL_URL cannot be read: {error}") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ImproperlyConfigured(
            "EMAIL_URL must look like smtp://user:password@host:port; "
            f"its scheme may be {', '.join(_PORTS)}."
        )
    return {
        "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "OPTIONS": {
            "host": parts.hostname,
            "port": port or _PORTS[parts.scheme],
            "username": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
            "use_tls": parts.scheme == "smtp+tls",
            "use_ssl": parts.scheme == "smtps",
            "timeout": 30,
        },
    }


_PORTS = {"smtp": 25, "smtp+tls": 587, "smtps": 465}
