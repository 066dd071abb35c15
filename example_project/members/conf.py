"""Give Django's settings a type that includes this site's own settings."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

from django.conf import settings as django_settings


class SiteSettings(Protocol):
    BASE_DIR: Path
    SITE_DIR: Path  # Everything that the site writes is kept here.
    MEDIA_ROOT: Path
    OUTBOX: Path | None  # None: mails go to a server.
    DIRECTORY: str  # host:port


settings = cast(SiteSettings, django_settings)
