"""Test the models of schedules and of unique keys, and that each guard of them is needed."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from tests.system.protocol import schedules, unique_keys
from tests.system.protocol.search import search


def flags(rules):
    return [field.name for field in fields(rules) if getattr(rules, field.name) is True]


@pytest.mark.parametrize(("edits", "jumps", "pauses"), [(0, 0, 0), (2, 1, 0), (1, 1, 1), (1, 2, 1)])
def test_each_slot_gets_one_task_in_every_state(edits, jumps, pauses):
    rules = schedules.Rules(edits=edits, jumps=jumps, pauses=pauses)
    found = search(schedules.model(rules))
    assert (found.broken, found.story) == ("", ())
    assert found.states > 20


# A guard that another one covers is needed if that one is missing.
COVERED_BY = {"guards_next": "slots_are_unique", "guards_pause": "guards_revision"}


@pytest.mark.parametrize("flag", flags(schedules.Rules()))
def test_a_schedule_needs_each_guard(flag):
    without = {flag: False, COVERED_BY.get(flag, flag): False}
    found = search(schedules.model(replace(schedules.Rules(), **without)))
    assert found.broken
    if flag in COVERED_BY:
        alone = search(schedules.model(replace(schedules.Rules(), **{flag: False})))
        assert not alone.broken
        other = {**without, flag: True}
        assert len(found.story) <= len(search(schedules.model(schedules.Rules(**other))).story)


@pytest.mark.parametrize("held_while", ["running", "waiting"])
def test_a_key_is_held_once_in_every_state(held_while):
    found = search(unique_keys.model(unique_keys.Rules(held_while=held_while, requeues=2)))
    assert (found.broken, found.story) == ("", ())
    assert found.states > 20


@pytest.mark.parametrize("flag", flags(unique_keys.Rules()))
def test_a_key_needs_each_guard(flag):
    broken = [
        search(unique_keys.model(replace(unique_keys.Rules(held_while=one), **{flag: False})))
        for one in ("running", "waiting")
    ]
    assert any(found.broken for found in broken)
