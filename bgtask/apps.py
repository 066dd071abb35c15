from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.utils.module_loading import autodiscover_modules, import_string
from django.utils.translation import gettext_lazy as _


class BgtaskConfig(AppConfig):
    name = "bgtask"
    verbose_name = _("Background tasks")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from bgtask import checks
        from bgtask.lifecycle import enqueue, rescue  # noqa: F401  # Importing registers their hooks.
        from bgtask.models import hooks
        from bgtask.schedules import edit, fire  # noqa: F401  # Likewise.

        hooks.dispatch_rescued = _dispatch_rescued

        checks.register()
        _load_backends()
        # An error inside a tasks.py is raised here, not swallowed.
        autodiscover_modules("tasks")


def _load_backends() -> None:
    """
    Import the backends of TASKS, so that a worker knows how to find their tasks.

    A backend that can't be imported is left to the checks, and to Django's own error.
    """
    for params in getattr(settings, "TASKS", {}).values():
        path = params.get("BACKEND", "")
        if not path.startswith("django."):
            with suppress(ImportError):
                import_string(path)


def _dispatch_rescued(outcomes: list[Any]) -> None:
    from bgtask.worker.events import dispatch_rescued  # A web process seldom needs it.

    dispatch_rescued(outcomes)
