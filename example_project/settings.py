"""A small membership site: SQLite, mails into files, everything it writes in one folder.

Environment:

SITE_DIR       where database, mails, pictures and logs are kept (var/site; the demo: var/demo)
DEBUG          0 turns it off, and then asks for SECRET_KEY and ALLOWED_HOSTS
EMAIL_URL      smtp://user:password@host:port, also smtp+tls:// and smtps://; without it, files
DIRECTORY      host:port of the federation's directory (127.0.0.1:9, where nobody answers)
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import django

from example_project.mail import mailer_from_url

BASE_DIR = Path(__file__).resolve().parent.parent

# The demo starts from nothing each time, so it has a folder of its own.
_FOLDER = "demo" if sys.argv[1:2] == ["demo"] else "site"
SITE_DIR = Path(os.environ.get("SITE_DIR") or BASE_DIR / "var" / _FOLDER).resolve()
SITE_DIR.mkdir(parents=True, exist_ok=True)

DEBUG = os.environ.get("DEBUG", "1") != "0"
SECRET_KEY = os.environ.get("SECRET_KEY", "insecure, for trying things out" if DEBUG else "")
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "").split()

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "bgtask",
    # The dashboard from which people operate tasks, where it is installed.
    *(app for app in ("django_filters", "django_tables2", "bgtask_admin") if find_spec(app)),
    "example_project.members",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "example_project.urls"
WSGI_APPLICATION = "example_project.wsgi.application"

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

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": SITE_DIR / "db.sqlite3",
        "OPTIONS": {
            # A transaction that reads first and writes later would otherwise fail at once
            # when somebody else wrote in between, whatever the timeout.
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            # In WAL mode, readers and the writer do not wait for each other. FULL waits for the
            # disk at each commit. NORMAL would lose tasks in a power cut.
            "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL",
        },
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

STATIC_URL = "static/"
MEDIA_URL = "media/"
MEDIA_ROOT = SITE_DIR / "media"

DEFAULT_FROM_EMAIL = "The Club <club@example.org>"
EMAIL_URL = os.environ.get("EMAIL_URL", "")
OUTBOX = None if EMAIL_URL else SITE_DIR / "outbox"
_MAILER: dict[str, Any] = (
    mailer_from_url(EMAIL_URL)
    if EMAIL_URL
    else {"BACKEND": "example_project.mail.EmlBackend", "OPTIONS": {"file_path": str(OUTBOX)}}
)
if django.VERSION >= (6, 1):
    MAILERS = {"default": _MAILER}
else:
    EMAIL_BACKEND = _MAILER["BACKEND"]
    EMAIL_FILE_PATH = _MAILER["OPTIONS"].get("file_path")
    EMAIL_HOST = _MAILER["OPTIONS"].get("host", "localhost")
    EMAIL_PORT = _MAILER["OPTIONS"].get("port", 25)
    EMAIL_HOST_USER = _MAILER["OPTIONS"].get("username", "")
    EMAIL_HOST_PASSWORD = _MAILER["OPTIONS"].get("password", "")
    EMAIL_USE_TLS = _MAILER["OPTIONS"].get("use_tls", False)
    EMAIL_USE_SSL = _MAILER["OPTIONS"].get("use_ssl", False)
    EMAIL_TIMEOUT = _MAILER["OPTIONS"].get("timeout")

DIRECTORY = os.environ.get("DIRECTORY", "127.0.0.1:9")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)-7s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {"bgtask": {"level": "INFO"}, "example_project": {"level": "INFO"}},
}
