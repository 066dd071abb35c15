"""The list of mutants fits the code and the tests of today. ``python -m tests.mutants`` runs it."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.databases import DATABASES
from tests.mutants.catalogue import EQUIVALENT, MUTANTS
from tests.mutants.mutant import ROOT

pytestmark = pytest.mark.vendor("sqlite")  # No database is asked.


@pytest.mark.parametrize("mutant", [*MUTANTS, *EQUIVALENT], ids=lambda mutant: mutant.name)
def test_every_patch_changes_exactly_one_place(mutant):
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.old != mutant.new


def test_every_mutant_has_a_name_of_its_own():
    names = Counter(mutant.name for mutant in [*MUTANTS, *EQUIVALENT])

    assert [name for name, number in names.items() if number > 1] == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_named_test_exists(mutant):
    assert mutant.database in DATABASES
    assert mutant.tests
    for test in mutant.tests.split():
        path, *names = test.partition("[")[0].split("::")
        text = (ROOT / path).read_text()
        for name in names:
            assert re.search(rf"^ *(def|class) {name}\b", text, re.MULTILINE), test
