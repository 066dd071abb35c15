from __future__ import annotations

from importlib.util import find_spec

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from bgtask.models import Task
from example_project.members.conf import settings
from example_project.members.models import Member, PaymentReport


def home(request: HttpRequest) -> HttpResponse:
    return render(
        request,
        "members/home.html",
        {
            "cards": Member.objects.exclude(card="").select_related("user")[:12],
            "members": Member.objects.count(),
            "tasks": Task.objects.count(),
            "reports": PaymentReport.objects.all(),
            "outbox": settings.OUTBOX,
            "has_monitoring": find_spec("bgtask_admin") is not None,
        },
    )
