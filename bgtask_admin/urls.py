"""
``path("bgtask/", include("bgtask_admin.urls"))``: what monitoring reads.

The pages are not here but inside each AdminSite. With or without a slash at the end, for a
probe does not follow a redirect.
"""

from __future__ import annotations

from django.urls import path

from bgtask_admin.monitoring import views

app_name = "bgtask_admin"
urlpatterns = [
    path("health", views.health, name="health"),
    path("stats", views.stats, name="stats"),
    path("metrics", views.metrics, name="metrics"),
    path("health/", views.health),
    path("stats/", views.stats),
    path("metrics/", views.metrics),
]
