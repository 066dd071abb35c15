"""Django's settings, with those of this site that Django does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

from django.conf import settings as django_settings


class SiteSettings(Protocol):
    BASE_DIR: Path
    SITE_DIR: Path  # Where everything is kept that the site writes.
    MEDIA_ROOT: Path
    OUTBOX: Path | None  # None: mails go to a server.
    DIRECTORY: str  # host:port


settings = cast(SiteSettings, django_settings)
