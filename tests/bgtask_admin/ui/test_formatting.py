from __future__ import annotations

import pytest
from django.utils.html import escape

from bgtask_admin.ui import formatting


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\x00b", "a␀b"),
        ("\x1b[31mred", "␛[31mred"),
        ("exe.\u202egnp", "exe.‹U+202E›gnp"),
        ("a\u200bb", "a‹U+200B›b"),
        ("one\ntwo", "one␊two"),
        ("naïve 💣 日本", "naïve 💣 日本"),
    ],
)
def test_invisible_characters_are_shown(raw, shown):
    assert formatting.visible(raw) == shown


def test_preformatted_text_keeps_its_lines():
    assert formatting.visible("one\n\ttwo\r", lines=True) == "one\n\ttwo␍"


def test_a_name_breaks_between_its_parts_and_stays_escaped():
    assert formatting.name("a.b_c") == "a.<wbr>b_<wbr>c"
    assert "<script>" not in formatting.name("<script>.x")
    assert escape(formatting.short("<b>")) == "&lt;b&gt;"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.25, "250 ms"), (2.5, "2.5 s"), (412, "6 m 52 s"), (None, "–")]
)
def test_durations_are_formatted(seconds, words):
    assert formatting.duration(seconds) == words


@pytest.mark.parametrize(("number", "words"), [(10_000, "10,000"), (10_001, "10,000+")])
def test_counts_above_the_limit_are_marked(number, words):
    assert formatting.count(number, 10_000) == words
