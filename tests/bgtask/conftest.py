from __future__ import annotations

from pathlib import Path

import pytest

from tests.bgtask.apps import App
from tests.bgtask.referring import in_a_transaction_of_the_caller, in_own_transaction


@pytest.fixture
def app(tmp_path: Path, child_env: dict[str, str]) -> App:
    return App(tmp_path, child_env)


@pytest.fixture(params=[in_own_transaction, in_a_transaction_of_the_caller])
def pruned(request):
    """Both: foreign keys are checked when the outermost transaction ends."""
    return request.param
