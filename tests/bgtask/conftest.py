from __future__ import annotations

from pathlib import Path

import pytest

from tests.bgtask.apps import App


@pytest.fixture
def app(tmp_path: Path, child_env: dict[str, str]) -> App:
    return App(tmp_path, child_env)
