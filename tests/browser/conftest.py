from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.test import Client

from tests.helpers import chromium, mark_as_slow

sync_api = pytest.importorskip("playwright.sync_api")

Open = Callable[..., "Dashboard"]


@pytest.hookimpl(tryfirst=True)  # Before -m is asked.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_as_slow(Path(__file__).parent, items)


@dataclass
class Dashboard:
    """A page of an operator's browser, and what it complained about."""

    page: Any
    base: str
    complaints: list[str] = field(default_factory=list)

    def go(self, path: str = "/admin/bgtask_admin/queuehealth/") -> Any:
        self.page.goto(self.base + path)
        return self.page

    def hear(self, said: Any) -> None:
        """Violations of the policy are told here, and what could not be loaded."""
        if said.type == "error" and "favicon" not in said.location["url"]:
            self.complaints.append(f"{said.text} {said.location['url']}")

    def is_too_wide(self) -> bool:
        root = "document.documentElement"
        return bool(self.page.evaluate(f"{root}.scrollWidth > {root}.clientWidth"))


@pytest.fixture(scope="package")  # Its loop must not outlive it: others call async code.
def browser() -> Iterator[Any]:
    # Playwright runs a loop of its own in this thread, which Django takes for async code.
    before = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()
    if before is None:
        del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture
def strict(settings: Any) -> None:
    settings.MIDDLEWARE = [*django_settings.MIDDLEWARE, "tests.browser.policy.StrictPolicy"]


@pytest.fixture
def dashboard(
    transactional_db: None, strict: None, browser: Any, live_server: Any
) -> Iterator[Open]:
    """``dashboard(javascript=False, width=360, dark=True)``: logged in; it must not complain."""
    opened: list[Dashboard] = []

    def open_dashboard(
        *, javascript: bool = True, width: int = 1400, dark: bool = False, user: Any = None
    ) -> Dashboard:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            java_script_enabled=javascript,
        )
        user = user or get_user_model().objects.filter(is_superuser=True).first()
        user = user or get_user_model().objects.create_superuser("admin")
        client = Client()
        client.force_login(user)
        name = django_settings.SESSION_COOKIE_NAME
        cookie = client.cookies[name].value
        context.add_cookies([{"name": name, "value": cookie, "url": live_server.url}])
        one = Dashboard(context.new_page(), live_server.url)
        one.page.on("console", one.hear)
        one.page.on("pageerror", lambda error: one.complaints.append(str(error)))
        opened.append(one)
        return one

    yield open_dashboard
    for one in opened:
        one.page.context.close()
        assert one.complaints == []
