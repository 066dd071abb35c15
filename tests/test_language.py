"""Test that no text of the project uses words that readers of simple English stumble over."""

from __future__ import annotations

import ast
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
# The name of a test says which actor does what. These words hide the actor, or are metaphors.
BANNED_IN_NAMES = ("bears", "bystanders?", "convict(s|ed)?", "duty", "heart", "let_go", "meets",
                   "neighbours?", "nobody", "nothing_else", "says_so", "somebody", "told_apart",
                   "whatever")  # fmt: skip
NAME = re.compile(
    r"^(what|who|whose|nor|so)_|(^|_)(" + "|".join(BANNED_IN_NAMES) + r")(_|$)", re.IGNORECASE
)
LONG_LINES = 300  # A longer module has to give the reason in its docstring.
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


def test_each_test_is_named_after_an_actor_and_its_behaviour() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and NAME.search(node.name.removeprefix("test_"))
    ]

    assert found == []


def test_each_long_module_gives_a_reason() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in texts()
        if path.suffix == ".py" and path.parent.name != "migrations"
        for text in [path.read_text(encoding="utf-8")]
        if text.count("\n") > LONG_LINES
        and "is long because" not in " ".join((ast.get_docstring(ast.parse(text)) or "").split())
    ]

    assert found == []


@pytest.mark.parametrize(
    "name", ["what_was_deleted", "claim_takes_ready_tasks_and_nothing_else", "nobody_holds_it"]
)
def test_banned_words_are_found_in_names(name: str) -> None:
    assert NAME.search(name)


@pytest.mark.parametrize(
    "text", ["Begin anew.", "It runs for\never.", "Whoever it is", "def run_for_ever"]
)
def test_banned_words_are_found_in_any_case_across_lines_and_in_names(text: str) -> None:
    assert PATTERN.search(text)
