"""Where the pages are."""

from __future__ import annotations

from django.http import HttpResponse
from django.utils.html import strip_tags

TASKS = "/admin/bgtask/task/"
CONFIRM = f"{TASKS}confirm/"
LANDING = "/admin/bgtask_admin/queuehealth/"
OPERATIONS = "/admin/bgtask_admin/operation/"


def text(response: HttpResponse) -> str:
    return response.content.decode()


def words(response: HttpResponse) -> str:
    """Return the text without tags, with one blank between words."""
    return " ".join(strip_tags(text(response)).split())


def preview_of(response: HttpResponse) -> str:
    """What the confirmation page carries."""
    return text(response).partition('name="preview" value="')[2].partition('"')[0]
