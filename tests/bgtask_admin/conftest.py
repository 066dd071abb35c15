from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client
from django.utils import translation

from bgtask_admin.actions import run

Operator = Callable[..., Any]


@pytest.fixture(autouse=True)
def language() -> Iterator[None]:
    """Reset the language after each test. A request in another language leaves it in the thread."""
    yield
    translation.deactivate()


@pytest.fixture(autouse=True)
def long_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each step of an action end its work, even on a machine that is busy."""
    monkeypatch.setattr(run.step, "__defaults__", (60.0,))


@pytest.fixture
def operator(db: None) -> Operator:
    """``operator("view_task", "requeue_task")`` is a member of staff with these rights."""
    count = 0

    def create(*codenames: str) -> Any:
        nonlocal count
        count += 1
        user = get_user_model().objects.create_user(f"operator-{count}", is_staff=True)
        rights = Permission.objects.filter(content_type__app_label="bgtask", codename__in=codenames)
        assert len(rights) == len(codenames)
        user.user_permissions.set(rights)
        return user

    return create


@pytest.fixture
def log_in(operator: Operator) -> Callable[..., Client]:
    """``log_in("view_task")``: the browser of a user with these permissions."""

    def enter(*codenames: str) -> Client:
        client = Client()
        client.force_login(operator(*codenames))
        return client

    return enter
