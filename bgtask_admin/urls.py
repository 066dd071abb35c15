"""
The endpoints for monitoring. Use ``path("bgtask/", include("bgtask_admin.urls"))``.

The pages are in each AdminSite instead. Each endpoint works with and without a slash at the
end, because a probe doesn't follow a redirect.
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
