from __future__ import annotations

import pytest
from django.core.management import CommandError

from example_project.members.demo.folder import emptied


def test_files_of_an_earlier_demo_are_removed(site):
    folder = site / "demo"
    with emptied(folder):
        (folder / "media").mkdir()
        (folder / "media/picture").touch()
        (folder / "db.sqlite3").touch()

    with emptied(folder):
        assert {path.name for path in folder.iterdir()} <= {"demo.lock", "demo.lock-journal"}


def test_other_files_are_not_removed(site):
    (site / "thesis.txt").touch()

    with pytest.raises(CommandError, match="not the demo's"), emptied(site):
        pass

    assert (site / "thesis.txt").exists()


def test_two_demos_do_not_share_a_folder(site):
    folder = site / "demo"

    with (
        emptied(folder),
        pytest.raises(CommandError, match="Another demo is running"),
        emptied(folder),
    ):
        pass
