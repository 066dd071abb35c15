from __future__ import annotations

from django.apps import apps
from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls)]
if apps.is_installed("bgtask_admin"):
    urlpatterns.append(path("bgtask/", include("bgtask_admin.urls")))
