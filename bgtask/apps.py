from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules
from django.utils.translation import gettext_lazy as _


class BgtaskConfig(AppConfig):
    name = "bgtask"
    verbose_name = _("Background tasks")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from bgtask import checks
        from bgtask.lifecycle import enqueue, rescue  # noqa: F401  # Importing registers their hooks.
        from bgtask.models import hooks

        hooks.dispatch_rescued = _dispatch_rescued

        checks.register()
        # An error inside a tasks.py is raised here, not swallowed.
        autodiscover_modules("tasks")


def _dispatch_rescued(outcomes: list[Any]) -> None:
    from bgtask.worker.events import dispatch_rescued  # A web process seldom needs it.

    dispatch_rescued(outcomes)
