"""What the pages need is said by ``check``, not by their first error."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.test import override_settings

from bgtask_admin.checks import NEEDED


def complaints():
    return [message for message in run_checks() if message.id == "bgtask_admin.W001"]


def test_complete_project_gets_no_message():
    assert complaints() == []


@pytest.mark.parametrize("name", ["django_filters", "django_tables2"])
def test_missing_app_is_named(name):
    assert name in NEEDED
    with override_settings(INSTALLED_APPS=[app for app in settings.INSTALLED_APPS if app != name]):
        (complaint,) = complaints()

    assert f"Add '{name}' to INSTALLED_APPS" in complaint.hint
