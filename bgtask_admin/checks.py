"""System checks that report missing apps before somebody opens a page."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.core import checks
from django.core.checks import CheckMessage, Warning

NEEDED = ("django.contrib.admin", "bgtask", "django_filters", "django_tables2")


def register() -> None:
    checks.register(check_apps, "bgtask")


def check_apps(**kwargs: Any) -> list[CheckMessage]:
    return [
        Warning(  # Not an Error, because the monitoring endpoints work without some of the apps.
            f"bgtask_admin needs {name!r}, which is not in INSTALLED_APPS.",
            hint=f"Add {name!r} to INSTALLED_APPS.",
            id="bgtask_admin.W001",
        )
        for name in NEEDED
        if not apps.is_installed(name)
    ]
