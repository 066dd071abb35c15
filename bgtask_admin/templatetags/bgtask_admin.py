from __future__ import annotations

from datetime import datetime
from typing import Any

import django
from django import template
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from bgtask.status import Status
from bgtask_admin import text

register = template.Library()

register.filter("visible", text.visible)
register.filter("short", text.short)
register.filter("name", text.name)
register.filter("milliseconds", text.milliseconds)
register.filter("is_past", text.is_past)
register.filter("moment", text.moment)
register.filter("clock", text.clock)


@register.filter
def grouped(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


@register.filter
def per_minute(value: float) -> str:
    if value >= 10_000:
        return _("%(number)s k") % {"number": f"{value / 1000:,.0f}"}
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


@register.filter
def status_badge(value: str) -> SafeString:
    """The word carries the meaning; colour and shape only repeat it."""
    label = Status(value).label if value in Status.values else value
    return format_html('<span class="bg-status bg-status-{}">{}</span>', value.lower(), label)


@register.simple_tag(takes_context=True)
def page_url(context: Any, name: str, *args: Any) -> str:
    """A page of the same AdminSite."""
    request: HttpRequest = context["request"]
    return reverse(f"admin:{name}", args=args, current_app=getattr(request, "current_app", None))


@register.simple_tag
def breadcrumbs_are_a_list() -> bool:
    return django.VERSION >= (6, 1)


@register.simple_tag(takes_context=True)
def nonce_attr(context: Any) -> str | SafeString:
    """Django has a tag for it only since 6.1."""
    nonce = context.get("csp_nonce")
    return format_html('nonce="{}"', nonce) if nonce else ""


@register.simple_tag
def ago(when: datetime | None, now: datetime | None = None) -> str | SafeString:
    return text.moment(when, now)
