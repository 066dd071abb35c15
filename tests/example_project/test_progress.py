from __future__ import annotations

import io

import pytest
from django.core.management.base import OutputWrapper

from example_project.members.demo.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rewrites_one_line_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = Terminal()
    progress = Progress(200, OutputWrapper(out))

    progress.show(100, 4, last=True)
    progress.show(200, 0, last=True)
    progress.end()

    *earlier, last = out.getvalue().removesuffix("\n").split("\r")
    assert "[############............] 100 of 200 tasks, 4 claimed" in "".join(earlier)
    assert "[########################] 200 of 200 tasks" in last
    assert out.getvalue().count("\n") == 1


def test_stays_on_one_line_of_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    out = Terminal()

    Progress(200, OutputWrapper(out)).show(100, 4)

    assert len(out.getvalue().strip("\r")) == 39


def test_writes_plain_lines_elsewhere_and_not_too_many():
    out = io.StringIO()
    progress = Progress(200, OutputWrapper(out))

    for done in range(100):
        progress.show(done, 4)
    progress.show(200, 0, last=True)
    progress.end()

    first, last = out.getvalue().splitlines()
    assert "0 of 200 tasks" in first
    assert "200 of 200 tasks" in last
    assert "\r" not in out.getvalue()


@pytest.mark.parametrize("total", [0, 1])
def test_a_demo_of_next_to_nothing_is_complete(monkeypatch, total):
    monkeypatch.setenv("COLUMNS", "80")
    out = Terminal()

    Progress(total, OutputWrapper(out)).show(total, 0)

    assert f"[########################] {total} of {total} tasks" in out.getvalue()
