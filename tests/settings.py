"""
Settings of every test, and of every process that a test starts.

``BGTASK_TEST_DATABASE`` holds the DATABASES entry to use, as JSON. Without it the tests run on
SQLite. ``BGTASK_TEST_USE_TZ=0`` runs them without time zones.

These variables are for single processes. ``BGTASK_TEST_SETTINGS`` holds BGTASK, as JSON.
``BGTASK_TEST_DATABASES`` holds further entries of DATABASES, as JSON. ``BGTASK_TEST_APPS`` holds
further apps. ``BGTASK_TEST_APPS_FIRST`` holds apps that come before all others.
"""

from __future__ import annotations

import atexit
import json
import os
from contextlib import ExitStack
from importlib.util import find_spec

from tests import databases


def _database() -> databases.Settings:
    if given := os.environ.get("BGTASK_TEST_DATABASE"):
        settings: databases.Settings = json.loads(given)
        return settings
    until_exit = ExitStack()
    atexit.register(until_exit.close)
    return until_exit.enter_context(databases.sqlite())


DATABASES = {
    "default": _database(),
    # For tests of two databases. In memory and without migrations it takes no time.
    "other": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": ":memory:",
        "TEST": {"MIGRATE": False},
    },
    **json.loads(os.environ.get("BGTASK_TEST_DATABASES", "{}")),
}
# Durability is not needed: after a power cut the tests can be run again.
SILENCED_SYSTEM_CHECKS = ["bgtask.W013"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

SECRET_KEY = "only-for-tests"
ALLOWED_HOSTS = ["*"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # A fast one.

USE_TZ = os.environ.get("BGTASK_TEST_USE_TZ", "1") == "1"
# This zone is far from UTC, and not by whole hours, so that tests notice a confusion of the two.
# It has no summer time, so that no test depends on the night in which it runs.
TIME_ZONE = "Asia/Kathmandu"
USE_I18N = True

INSTALLED_APPS = [
    *filter(None, os.environ.get("BGTASK_TEST_APPS_FIRST", "").split(",")),
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_filters",
    "django_tables2",
    "bgtask",
    *(["bgtask_admin"] if find_spec("bgtask_admin") else []),
    "example_project.members",
    "tests",
    *filter(None, os.environ.get("BGTASK_TEST_APPS", "").split(",")),
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "tests.urls"
STATIC_URL = "static/"

# Django 5.2 has tasks only with the package django-tasks.
if find_spec("django.tasks") or find_spec("django_tasks"):
    TASKS = {
        "default": {"BACKEND": "bgtask.backend.BgtaskBackend", "QUEUES": ["default", "mail"]},
        "patient": {
            "BACKEND": "bgtask.backend.BgtaskBackend",
            "QUEUES": [],
            "OPTIONS": {"max_attempts": 3, "max_run_time": 600, "backoff": 30},
        },
    }

BGTASK = json.loads(os.environ.get("BGTASK_TEST_SETTINGS", "{}"))
