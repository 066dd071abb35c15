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
from bgtask_admin.ui import formatting

register = template.Library()

register.filter("visible", formatting.visible)
register.filter("short", formatting.short)
register.filter("name", formatting.name)
register.filter("milliseconds", formatting.milliseconds)
register.filter("is_past", formatting.is_past)
register.filter("moment", formatting.moment)
register.filter("clock", formatting.clock)


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
    """Return a status as HTML. The word has the meaning; colour and shape only repeat it."""
    label = Status(value).label if value in Status.values else value
    return format_html('<span class="bg-status bg-status-{}">{}</span>', value.lower(), label)


@register.simple_tag(takes_context=True)
def page_url(context: Any, name: str, *args: Any) -> str:
    """Return the URL of a page of the same AdminSite."""
    request: HttpRequest = context["request"]
    return reverse(f"admin:{name}", args=args, current_app=getattr(request, "current_app", None))


@register.simple_tag
def breadcrumbs_are_a_list() -> bool:
    return django.VERSION >= (6, 1)


@register.simple_tag(takes_context=True)
def nonce_attr(context: Any) -> str | SafeString:
    """Return the nonce attribute for the CSP. Django has a tag for this only since 6.1."""
    nonce = context.get("csp_nonce")
    return format_html('nonce="{}"', nonce) if nonce else ""


@register.simple_tag
def ago(when: datetime | None, now: datetime | None = None) -> str | SafeString:
    return formatting.moment(when, now)
