"""Test that no text of the project uses words that readers of simple English stumble over."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.processes import ROOT

BANNED = ("anew", "lest", "none such", "kin", "in vain", "for ever", "whoever", "is to be",
          "of which")  # fmt: skip
# Names in code count as texts, so an underscore separates words like a blank.
PATTERN = re.compile(
    r"(?<![a-z])(" + "|".join(BANNED).replace(" ", r"[\s_]+") + r")(?![a-z])", re.IGNORECASE
)
FOLDERS = ("bgtask", "bgtask_admin", "docs", "example_project", "tests")
SUFFIXES = (".html", ".md", ".py")


def texts() -> list[Path]:
    """Return the files that people read, except this one."""
    within = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    files = [path for path in within if path.suffix in SUFFIXES and path != Path(__file__)]
    return sorted([*files, *ROOT.glob("*.md")])


def test_no_text_has_a_banned_word() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for path in texts()
        for text in [path.read_text(encoding="utf-8")]
        for match in PATTERN.finditer(text)
    ]

    assert found == []


@pytest.mark.parametrize(
    "text", ["Begin anew.", "It runs for\never.", "Whoever it is", "def run_for_ever"]
)
def test_banned_words_are_found_in_any_case_across_lines_and_in_names(text: str) -> None:
    assert PATTERN.search(text)
