"""
Take the pictures of the pages: ``python docs/screenshots.py [FOLDER]``.

Runs ``manage.py demo`` on a free port, looks at its pages with Chromium, and leaves a PNG of each
in docs/screenshots.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
HEALTH = "/admin/bgtask_admin/queuehealth/"
TASKS = "/admin/bgtask/task/"
POISON = "example_project.members.tasks.tell_directory"


@contextmanager
def demo() -> Iterator[tuple[str, str]]:
    """Run the demo, and yield its address and the password of admin once it serves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="club-") as folder:
        # A copy, so that the pictures do not show where the project lies on this machine.
        site = Path(folder)
        shutil.copy(ROOT / "manage.py", site)
        for package in ("bgtask", "bgtask_admin", "example_project"):
            shutil.copytree(ROOT / package, site / package)
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "manage.py", "demo", f"--port={port}"],
            cwd=site,
            env={**os.environ, "SITE_DIR": str(site / "var"), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield f"http://127.0.0.1:{port}", _password(process)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def _password(process: subprocess.Popen[str]) -> str:
    """Return the password of admin once the site is served.

    The demo prints it at the beginning, and again once it serves the site.
    """
    seen = ""
    for line in process.stdout or ():
        if match := re.search(r"password: (\S+)", line):
            if seen:
                return match[1]
            seen = match[1]
    raise SystemExit("The demo has ended before it served its site.")


def take(page: Any, address: str, password: str, folder: Path) -> None:
    page.goto(f"{address}/admin/login/?next={HEALTH}")
    page.fill("#id_username", "admin")
    page.fill("#id_password", password)
    page.press("#id_password", "Enter")
    page.wait_for_url(f"**{HEALTH}")
    _keep(page, folder / "health.png")
    page.goto(f"{address}{TASKS}?status=FAILED")
    _keep(page, folder / "tasks.png")
    page.locator("td .bg-name").first.click()
    _keep(page, folder / "task.png")
    page.goto(address + HEALTH)
    page.locator("tr", has_text="Requeue…").locator("a[href*='/error/']").first.click()
    _keep(page, folder / "error.png")
    page.goto(f"{address}{TASKS}?status=FAILED")
    page.locator("button[value=all]").click()
    page.locator("form[data-once] button").click()
    for path in (f"hold/?name={POISON}", "pause/?name=letters"):
        page.goto(address + HEALTH + path)
        page.fill("#id_reason", "Until the federation answers again")
        page.locator(".bg-confirm button").click()
    page.goto(f"{address}/admin/bgtask_admin/operation/")
    _keep(page, folder / "operations.png")


def _keep(page: Any, file: Path) -> None:
    page.wait_for_load_state()
    page.screenshot(path=file, full_page=False)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    with demo() as (address, password), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        take(browser.new_page(viewport={"width": 1280, "height": 960}), address, password, folder)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "docs" / "screenshots")
