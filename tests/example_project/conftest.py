from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import django
import pytest
from django.contrib.auth.models import User

from example_project.members.demo import portraits
from example_project.members.models import Member, Plan


@pytest.fixture(autouse=True)
def site(settings: Any, tmp_path: Path) -> Path:
    """Give the test a site in a folder of its own, and return the folder."""
    settings.SITE_DIR = tmp_path
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.MEDIA_URL = "media/"
    settings.OUTBOX = tmp_path / "outbox"
    if django.VERSION >= (6, 1):  # Which warns of sending mail without it.
        settings.MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
    with socket.socket() as nobody:  # Closed at once, so that nobody answers there.
        nobody.bind(("127.0.0.1", 0))
        settings.DIRECTORY = f"127.0.0.1:{nobody.getsockname()[1]}"
    return tmp_path


@pytest.fixture
def make_member(db: None, site: Path) -> Callable[..., Member]:
    """``make_member(plan=Plan.YOUTH)``: one with a portrait."""

    def make(**options: Any) -> Member:
        number = Member.objects.count() + 1
        photo = f"photos/{number}.jpg"
        (site / "media/photos").mkdir(parents=True, exist_ok=True)
        portraits.take(site / "media" / photo, seed=number)
        defaults = {
            "user": User.objects.create(
                username=f"member{number}",
                first_name="Chloé",
                last_name="Dvořák",
                email=f"member{number}@example.org",
            ),
            "number": f"M-{number:04}",
            "plan": Plan.FAMILY,
            "joined": date(2026, 1, 1),
            "renews_on": date(2099, 1, 1),
            "mandate_until": date(2099, 1, 1),
            "photo": photo,
        }
        return Member.objects.create(**(defaults | options))

    return make


@pytest.fixture
def member(make_member: Callable[..., Member]) -> Member:
    return make_member()
