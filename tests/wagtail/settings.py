"""A site of Wagtail, whose tasks bgtask stores."""

from __future__ import annotations

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
SECRET_KEY = "only-for-tests"
USE_TZ = True
ROOT_URLCONF = "tests.urls"
STATIC_URL = "static/"
WAGTAIL_SITE_NAME = "tests"
WAGTAILADMIN_BASE_URL = "http://localhost"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "bgtask",
    "wagtail",
    "wagtail.search",
    "wagtail.images",
    "wagtail.documents",
    "wagtail.users",
    "wagtail.admin",
    "taggit",
    "tests.wagtail",
]
TASKS = {"default": {"BACKEND": "bgtask.backend.BgtaskBackend", "QUEUES": []}}
WAGTAILSEARCH_BACKENDS = {"default": {"BACKEND": "wagtail.search.backends.database"}}
