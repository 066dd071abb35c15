"""The dashboard in an AdminSite of the project's own."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin import AdminSite
from django.urls import path

from bgtask.status import Status
from bgtask_admin.admin import register
from tests.bgtask_admin.urls import text
from tests.factories import TaskFactory

staff = AdminSite(name="staff")
register(staff)
urlpatterns: list[Any] = [path("admin/", admin.site.urls), path("staff/", staff.urls)]

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]


def test_every_link_stays_in_the_site(admin_client):
    task = TaskFactory(status=Status.FAILED)

    for url in (
        "/staff/bgtask_admin/queuehealth/",
        "/staff/bgtask/task/",
        f"/staff/bgtask/task/{task.pk}/change/",
        "/staff/bgtask/task/confirm/?verb=requeue&status=FAILED",
        "/staff/bgtask_admin/operation/",
    ):
        page = text(admin_client.get(url))
        assert "/staff/bgtask/task/" in page
        assert "/admin/bgtask" not in page


def test_an_action_comes_back_to_the_site(admin_client):
    task = TaskFactory(status=Status.FAILED)

    response = admin_client.post(f"/staff/bgtask/task/{task.pk}/do/requeue/")

    assert response.url == f"/staff/bgtask/task/{task.pk}/change/"


def test_the_entry_in_the_index_leads_to_the_list(admin_client):
    response = admin_client.get("/staff/bgtask_admin/tasklist/")

    assert response.url == "/staff/bgtask/task/"
