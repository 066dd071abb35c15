from __future__ import annotations

from importlib.util import find_spec

from django.conf import settings
from django.conf.urls.static import static
from django.contrib import admin
from django.urls import include, path

from example_project.members.views import home

urlpatterns = [
    path("", home, name="home"),
    path("admin/", admin.site.urls),
    *static(settings.MEDIA_URL, document_root=settings.MEDIA_ROOT),
]
if find_spec("bgtask_admin"):
    urlpatterns.append(path("bgtask/", include("bgtask_admin.urls")))
