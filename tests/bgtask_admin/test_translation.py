"""The pages in a language that is English in brackets: what stands outside is not translated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from django.utils import timezone, translation
from django.utils.translation import trans_real

from bgtask.models import Attempt, QueuePause, Task, TaskHold
from bgtask.status import Status
from bgtask_admin import operations, text
from bgtask_admin.selection import Selection
from tests.bgtask_admin.urls import CONFIRM, LANDING, OPERATIONS, TASKS
from tests.bgtask_admin.urls import text as html_of
from tests.factories import TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db

BRACKETED = "eo"
# Names, formats and the product's own words of search, which no language changes.
NAMES = {
    "admin", "xxworker", "CSV", "JSON", "UTC", "xxqueue", "xxname", "xxerror", "xxtext",
    "xxreason", "xxkey",
}  # fmt: skip


class Bracketed(trans_real.DjangoTranslation):
    """English, each message in brackets."""

    def gettext(self, message: str) -> str:
        return f"⟦{message.rpartition(chr(4))[2]}⟧"

    def ngettext(self, singular: str, plural: str, number: int) -> str:
        return self.gettext(singular if number == 1 else plural)


class Shown(HTMLParser):
    """Collect what a reader of the page's own part sees or hears, piece by piece."""

    READ = ("aria-label", "title", "placeholder", "alt")
    UNREAD = ("script", "style", "pre", "code")

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._open: list[str] = []
        self._is_ours = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id") == "nav-sidebar":  # Other apps, in their own words.
            self._is_ours = False
        if tag in ("h1", "title") or given.get("class") in ("bg-nav", "bg-page", "breadcrumbs"):
            self._is_ours = True
        if tag in self.UNREAD:
            self._open.append(tag)
        if self._is_ours and tag != "time":
            self.pieces += [value for name in self.READ if (value := given.get(name))]

    def handle_endtag(self, tag: str) -> None:
        if self._open and tag == self._open[-1]:
            self._open.pop()
        if tag in ("title", "footer"):
            self._is_ours = False

    def handle_data(self, data: str) -> None:
        if self._is_ours and not self._open:
            self.pieces.append(data)


def untranslated(html: str) -> list[str]:
    """Return the pieces of text with words outside of the brackets that are no names."""
    shown = Shown()
    shown.feed(html)
    found = []
    for piece in shown.pieces:
        outside, depth = "", 0
        for character in piece:
            depth += (character == "⟦") - (character == "⟧")
            outside += " " if depth or character == "⟧" else character
        words = set(re.findall(r"[A-Za-z]+", outside)) - NAMES
        if words:
            found.append(" ".join(piece.split()))
    return found


@pytest.fixture
def bracketed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(trans_real._translations, BRACKETED, Bracketed(BRACKETED))  # type: ignore[attr-defined]
    with translation.override(BRACKETED):
        yield


@pytest.fixture
def paths(admin_user: Any) -> list[str]:
    now = timezone.now()
    lost = WorkerFactory(label="xxworker", silent=True, queues="xxqueue")
    WorkerFactory(label="xxworker", stuck=1)
    common: dict[str, Any] = {"task_name": "xxname", "queue": "xxqueue"}
    for status in Status:
        more = {"locked_by": lost} if status == Status.RUNNING else {}
        TaskFactory.create_batch(2, status=status, task_params="[[], {}]", **common, **more)
    failed = Task.objects.failed().earliest("pk")
    Task.objects.failed().update(error_class="xxerror", error_fingerprint="xxkey")
    Task.objects.filter(pk=failed.pk).update(crashes=1, duration_ms=1_200, last_worker="xxworker")
    Attempt.objects.create(
        task=failed,
        token=1,
        number=1,
        worker="xxworker",
        started_at=now - timedelta(seconds=90),
        finished_at=now - timedelta(seconds=5),
        outcome="failed",
        error_class="xxerror",
        message="xxtext",
        traceback="xxtext",
        error_fingerprint="xxkey",
    )
    TaskHold.objects.create(task_name="xxname", held_at=now, held_by="admin", reason="xxreason")
    QueuePause.objects.create(queue="xxqueue", paused_at=now, paused_by="admin", reason="xxreason")
    held = Task.objects.held().earliest("pk")
    operation = operations.do(
        "requeue",
        Selection.parse({"status": "CANCELLED", "queue": "xxqueue"}),
        {"spread": 10, "reset_attempts": True},
        user=admin_user,
        reason="xxreason",
    )
    running = Task.objects.running().earliest("pk")
    return [
        LANDING,
        f"{LANDING}queues/?q=x",
        f"{LANDING}error/xxkey/",
        f"{LANDING}error/none/",
        f"{LANDING}hold/?name=xxname",
        f"{LANDING}pause/?name=xxqueue",
        TASKS,
        f"{TASKS}?status=FAILED&queue=xxqueue&task=xxname&attempts_min=0&since=24h&worker=xxworker",
        f"{TASKS}?status=READY&argument=xxkey:1",
        f"{TASKS}?status=FAILD",
        f"{TASKS}{failed.pk}/change/",
        f"{TASKS}{running.pk}/change/",
        f"{TASKS}{held.pk}/change/",
        f"{CONFIRM}?verb=requeue&status=FAILED",
        f"{CONFIRM}?verb=requeue&task=xxname",
        f"{CONFIRM}?verb=cancel&id={failed.pk + 100}",
        f"{CONFIRM}?verb=delete&queue=xxqueue",
        OPERATIONS,
        f"{OPERATIONS}{operation.pk}/change/",
    ]


def test_every_word_of_every_page_is_translated(bracketed, admin_client, paths):
    """Language: words of a page that no translator sees."""
    found = {path: untranslated(html_of(admin_client.get(path))) for path in paths}

    assert [(path, piece) for path, pieces in found.items() for piece in pieces] == []


def test_units_are_translated(bracketed):
    """Language: units of numbers that no translator sees."""
    assert text.duration(412) == "⟦6 m⟧ ⟦52 s⟧"
    assert text.duration(2.5) == "⟦2.5 s⟧"
    assert text.duration(0.25) == "⟦250 ms⟧"
    assert text.percent(0.07) == "⟦7 %⟧"
    assert "⟦⟦1 h⟧ ago⟧" in text.moment(timezone.now() - timedelta(hours=1))


def test_a_word_outside_of_the_brackets_is_found():
    page = '<h1>⟦Tasks⟧</h1><div class="bg-page"><p title="all">⟦two ⟦three⟧⟧ 4 tasks</p></div>'

    assert untranslated(page) == ["all", "⟦two ⟦three⟧⟧ 4 tasks"]
