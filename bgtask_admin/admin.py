"""
Register the dashboard's pages in an AdminSite.

Call ``bgtask_admin.admin.register(site)`` for an AdminSite of your own.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, re_path

from bgtask.models import Schedule, Task
from bgtask_admin.actions.pause_views import hold_type, pause, release_type, release_worker, resume
from bgtask_admin.actions.views import confirm, operation_list, operation_page, operation_step
from bgtask_admin.errors.views import error_group
from bgtask_admin.models import Operation, QueueHealth, ScheduleList, TaskList
from bgtask_admin.overview.queues import queue_list
from bgtask_admin.overview.views import overview
from bgtask_admin.permissions import MONITOR, VIEW, VIEW_SCHEDULE, check_permissions
from bgtask_admin.schedules.acts import act as act_on_schedule
from bgtask_admin.schedules.acts import pause as pause_schedule
from bgtask_admin.schedules.editing import add as add_schedule
from bgtask_admin.schedules.editing import change as change_schedule
from bgtask_admin.schedules.editing import preview_fragment
from bgtask_admin.schedules.upcoming import upcoming
from bgtask_admin.schedules.views import schedule_list, schedule_page
from bgtask_admin.tasks.detail import task_page, task_verb
from bgtask_admin.tasks.export import export
from bgtask_admin.tasks.list import task_list
from bgtask_admin.ui.pages import admin_url, admin_view_of

__all__ = ["register"]


class DashboardAdmin(admin.ModelAdmin):
    """A ModelAdmin without Django's forms to add, change and delete rows."""

    actions = None
    seen_by: tuple[str, ...] = (VIEW,)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return any(request.user.has_perm(one) for one in self.seen_by)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class QueueHealthAdmin(DashboardAdmin):
    seen_by = (VIEW, MONITOR)

    def get_urls(self) -> list[Any]:
        def url(route: str, view: Any, name: str) -> Any:
            return path(route, admin_view_of(view, self.admin_site), name=f"bgtask_admin_{name}")

        return [
            url("", overview, "queuehealth_changelist"),
            url("queues/", queue_list, "queues"),
            url("upcoming/", upcoming, "upcoming"),
            # A fingerprint is hexadecimal, but the column may contain any text.
            re_path(
                r"^error/(?P<fingerprint>[\s\S]+)/\Z",
                admin_view_of(error_group, self.admin_site),
                name="bgtask_admin_error",
            ),
            url("hold/", hold_type, "hold"),
            url("release/", release_type, "release"),
            url("pause/", pause, "pause"),
            url("resume/", resume, "resume"),
            url("worker/<int:worker_id>/release/", release_worker, "release_worker"),
        ]


class TaskAdmin(DashboardAdmin):
    def get_model_perms(self, request: HttpRequest) -> dict[str, bool]:
        return {}  # Hide this entry. The index lists the page in the section of the dashboard.

    def get_urls(self) -> list[Any]:
        def url(route: str, view: Any, name: str) -> Any:
            return path(route, admin_view_of(view, self.admin_site), name=name)

        return [
            url("", task_list, "bgtask_task_changelist"),
            url("confirm/", confirm, "bgtask_admin_confirm"),
            url("export.<str:form>", export, "bgtask_admin_export"),
            url("<str:task_id>/do/<str:verb>/", task_verb, "bgtask_admin_verb"),
            url("<str:task_id>/change/", task_page, "bgtask_task_change"),
        ]


class ScheduleAdmin(DashboardAdmin):
    seen_by = (VIEW_SCHEDULE,)

    def get_model_perms(self, request: HttpRequest) -> dict[str, bool]:
        return {}  # Hide this entry, like that of tasks.

    def get_urls(self) -> list[Any]:
        def url(route: str, view: Any, name: str, **given: Any) -> Any:
            return path(route, admin_view_of(view, self.admin_site), given, name=name)

        return [
            url("", schedule_list, "bgtask_schedule_changelist"),
            url("add/", add_schedule, "bgtask_admin_schedule_add"),
            url("preview/", preview_fragment, "bgtask_admin_schedule_preview"),
            url("<int:schedule_id>/change/", schedule_page, "bgtask_schedule_change"),
            url("<int:schedule_id>/edit/", change_schedule, "bgtask_admin_schedule_edit"),
            url("<int:schedule_id>/pause/", pause_schedule, "bgtask_admin_schedule_pause"),
            *(
                url(
                    f"<int:schedule_id>/{verb}/",
                    act_on_schedule,
                    f"bgtask_admin_schedule_{verb}",
                    verb=verb,
                )
                for verb in ("resume", "run", "restore", "delete")
            ),
        ]


class OperationAdmin(DashboardAdmin):
    def get_urls(self) -> list[Any]:
        def url(route: str, view: Any, name: str) -> Any:
            return path(
                route, admin_view_of(view, self.admin_site), name=f"bgtask_admin_operation_{name}"
            )

        return [
            url("", operation_list, "changelist"),
            url("<str:operation_id>/change/", operation_page, "change"),
            url("<str:operation_id>/step/", operation_step, "step"),
        ]


class ElsewhereAdmin(DashboardAdmin):
    """An entry of the index that redirects to another page."""

    target = ""

    def get_urls(self) -> list[Any]:
        def leave(request: HttpRequest) -> HttpResponse:
            check_permissions(request.user, *self.seen_by)
            request.current_app = self.admin_site.name
            return HttpResponseRedirect(admin_url(request)(self.target))

        name = f"bgtask_admin_{self.opts.model_name}_changelist"
        return [path("", self.admin_site.admin_view(leave), name=name)]


class TaskListAdmin(ElsewhereAdmin):
    target = "bgtask_task_changelist"


class ScheduleListAdmin(ElsewhereAdmin):
    target = "bgtask_schedule_changelist"
    seen_by = (VIEW_SCHEDULE,)


def register(site: AdminSite) -> None:
    """Register the dashboard in this site."""
    site.register(QueueHealth, QueueHealthAdmin)
    site.register(TaskList, TaskListAdmin)
    site.register(ScheduleList, ScheduleListAdmin)
    site.register(Operation, OperationAdmin)
    site.register(Task, TaskAdmin)
    site.register(Schedule, ScheduleAdmin)


register(admin.site)
