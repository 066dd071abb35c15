"""The list of mutants fits the code and the tests of today. ``python -m tests.mutants`` runs it."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import pytest

from tests.databases import DATABASES
from tests.mutants.catalogue import EQUIVALENT, MUTANTS
from tests.mutants.mutant import ROOT

pytestmark = pytest.mark.vendor("sqlite")  # No database is asked.


@cache
def text_of(path):
    return (ROOT / path).read_text()


def test_every_patch_changes_exactly_one_place():
    found = {
        mutant.name: text_of(mutant.file).count(mutant.old) for mutant in [*MUTANTS, *EQUIVALENT]
    }

    assert {name: number for name, number in found.items() if number != 1} == {}
    assert [mutant.name for mutant in MUTANTS if mutant.old == mutant.new] == []


def test_every_mutant_has_a_name_of_its_own():
    names = Counter(mutant.name for mutant in [*MUTANTS, *EQUIVALENT])

    assert [name for name, number in names.items() if number > 1] == []


def test_every_mutant_names_tests_and_a_database_that_there_are():
    assert [mutant.name for mutant in MUTANTS if not mutant.tests] == []
    assert {mutant.database for mutant in MUTANTS} <= DATABASES.keys()
    assert {
        mutant.name: test
        for mutant in MUTANTS
        for test in mutant.tests.split()
        if not is_there(test)
    } == {}


def is_there(test):
    path, *names = test.split("::")
    return all(
        re.search(rf"^ *(def|class) {name}\b", text_of(path), re.MULTILINE) for name in names
    )
