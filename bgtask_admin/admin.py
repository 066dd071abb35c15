"""The pages' places in any AdminSite: ``bgtask_admin.admin.register(site)`` for one of your own."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, re_path

from bgtask.models import Task
from bgtask_admin.models import Operation, QueueHealth, TaskList
from bgtask_admin.permissions import MONITOR, VIEW
from bgtask_admin.views import errors, export, landing, operate, queues, stopping, task, tasks
from bgtask_admin.views.base import bound, url_of

__all__ = ["register"]


class DashboardAdmin(admin.ModelAdmin):
    """Nothing is added, changed or deleted by Django's own forms."""

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
        def at(route: str, view: Any, name: str) -> Any:
            return path(route, bound(view, self.admin_site), name=f"bgtask_admin_{name}")

        return [
            at("", landing.landing, "queuehealth_changelist"),
            at("queues/", queues.queue_list, "queues"),
            # A fingerprint is hexadecimal, but what stands in the column may be anything.
            re_path(
                r"^error/(?P<fingerprint>[\s\S]+)/\Z",
                bound(errors.error_group, self.admin_site),
                name="bgtask_admin_error",
            ),
            at("hold/", stopping.hold_type, "hold"),
            at("release/", stopping.release_type, "release"),
            at("pause/", stopping.pause, "pause"),
            at("resume/", stopping.resume, "resume"),
            at("worker/<int:worker_id>/release/", stopping.release_worker, "release_worker"),
        ]


class TaskAdmin(DashboardAdmin):
    def get_model_perms(self, request: HttpRequest) -> dict[str, bool]:
        return {}  # The index lists it under the name of the dashboard.

    def get_urls(self) -> list[Any]:
        def at(route: str, view: Any, name: str) -> Any:
            return path(route, bound(view, self.admin_site), name=name)

        return [
            at("", tasks.task_list, "bgtask_task_changelist"),
            at("confirm/", operate.confirm, "bgtask_admin_confirm"),
            at("export.<str:form>", export.export, "bgtask_admin_export"),
            at("<str:task_id>/do/<str:verb>/", task.task_verb, "bgtask_admin_verb"),
            at("<str:task_id>/change/", task.task_page, "bgtask_task_change"),
        ]


class OperationAdmin(DashboardAdmin):
    def get_urls(self) -> list[Any]:
        def at(route: str, view: Any, name: str) -> Any:
            return path(route, bound(view, self.admin_site), name=f"bgtask_admin_operation_{name}")

        return [
            at("", operate.operation_list, "changelist"),
            at("<str:operation_id>/change/", operate.operation_page, "change"),
            at("<str:operation_id>/step/", operate.operation_step, "step"),
        ]


class ElsewhereAdmin(DashboardAdmin):
    """An entry of the index that leads to a page of another place."""

    target = ""

    def get_urls(self) -> list[Any]:
        def leave(request: HttpRequest) -> HttpResponse:
            request.current_app = self.admin_site.name
            return HttpResponseRedirect(url_of(request)(self.target))

        name = f"bgtask_admin_{self.opts.model_name}_changelist"
        return [path("", self.admin_site.admin_view(leave), name=name)]


class TaskListAdmin(ElsewhereAdmin):
    target = "bgtask_task_changelist"


def register(site: AdminSite) -> None:
    """Add the dashboard to this site."""
    site.register(QueueHealth, QueueHealthAdmin)
    site.register(TaskList, TaskListAdmin)
    site.register(Operation, OperationAdmin)
    site.register(Task, TaskAdmin)


register(admin.site)
