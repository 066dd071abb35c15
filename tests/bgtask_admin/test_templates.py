"""The dashboard's templates, styles and script as files that people edit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import bgtask_admin

MOST_CHARACTERS = 120
ROOT = Path(bgtask_admin.__file__).parent


def _files() -> Iterator[Path]:
    for folder, suffixes in (("templates", (".html",)), ("static", (".css", ".js"))):
        yield from sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)


@pytest.mark.parametrize("path", list(_files()), ids=lambda path: path.name)
def test_no_line_is_longer_than_120_characters(path):
    """Templates: a line that no editor shows whole."""
    lines = path.read_text().splitlines()

    assert [
        f"{number}: {line}" for number, line in enumerate(lines, 1) if len(line) > MOST_CHARACTERS
    ] == []
