from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class BgtaskAdminConfig(AppConfig):
    name = "bgtask_admin"
    verbose_name = _("Background tasks")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from bgtask_admin import checks

        checks.register()
