"""
Whatever a task raises becomes text that every database keeps.

The module is long because errors have many kinds of text that a database refuses.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgtask import failures
from bgtask.failures import (
    MAX_CLASS,
    MAX_MESSAGE,
    MAX_TEXT,
    describe,
    first_line,
    is_project_code,
    storable,
)
from bgtask.redaction import redact

# In an alphabet of all characters, Hypothesis would hardly ever choose one of these few.
odd = st.sampled_from(["\x00", "\ud83d", "\udc80", "='", '":', "://", "@", "\n"])
text = st.lists(odd | st.text(st.characters(categories=None), max_size=9)).map("".join)


class Odd(Exception):
    """Its words are made by what it is given."""

    def __init__(self, spell):
        self.spell = spell

    def __str__(self):
        return self.spell()


class HostileText(str):
    __slots__ = ()

    def __len__(self):
        raise RuntimeError("no length")

    def replace(self, *args):
        raise RuntimeError("no replacement")


def raises(error):
    def spell():
        raise error

    return spell


def endless():
    return endless()


def caught(function, *args):
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def throw(error):
    raise error


def chain(length):
    error = None
    for number in range(length):
        try:
            raise ValueError(number) from error
        except ValueError as link:
            error = link
    return error


def ring():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def misnamed(**names):
    kind = type("Misnamed", (Exception,), {})
    for name, value in names.items():
        setattr(kind, name, value)
    return kind("misnamed")


def is_storable(written, limit):
    assert type(written) is str
    assert len(written) <= limit
    assert "\x00" not in written
    return bool(written.encode()) or not written


HOSTILE = {
    "NUL and lone surrogates": lambda: ValueError("a\x00b\udc80c"),
    "five megabytes": lambda: ValueError("x" * 5_000_000),
    "__str__ raises": lambda: Odd(raises(ValueError("no words"))),
    "__str__ exits": lambda: Odd(raises(SystemExit(3))),
    "__str__ never ends": lambda: Odd(endless),
    "__str__ returns no text": lambda: Odd(lambda: 5),
    "__str__ returns a text that is hostile": lambda: Odd(lambda: HostileText("words")),
    "too deep": lambda: caught(endless),
    "exit": lambda: SystemExit(1),
    "interrupt": lambda: KeyboardInterrupt(),
    "thousands of causes": lambda: chain(3_000),
    "a ring of causes": ring,
    "a group": lambda: ExceptionGroup("many", [ValueError(number) for number in range(1_000)]),
    "a syntax error": lambda: caught(compile, "a b\x00", "name\udc80", "exec"),
    "a decoding error": lambda: caught(b"\xff".decode, "utf-8"),
    "a key": lambda: KeyError("\x00", {"a": 1}),
    "a class of a long name": lambda: misnamed(__qualname__="x" * 1_000),
    "a class of a strange module": lambda: misnamed(__module__=Odd(raises(ValueError()))),
    "notes that are hostile": lambda: caught(throw, misnamed(__notes__=[HostileText(), 5, "\x00"])),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_hostile_exceptions_are_described_by_storable_text(make):
    started = time.monotonic()

    failure = describe(caught(throw, make()))

    assert is_storable(failure.error_class, MAX_CLASS)
    assert is_storable(failure.message, MAX_MESSAGE)
    assert is_storable(failure.traceback, MAX_TEXT)
    assert is_storable(failure.fingerprint, 32)
    assert failure.error_class
    assert failure.traceback
    assert time.monotonic() - started < 20  # Not minutes, on however slow a machine.


def test_description_has_the_error_its_place_and_its_cause():
    failure = describe(caught(throw, chain(2)))

    assert (failure.error_class, failure.message) == ("ValueError", "1")
    assert failure.traceback.rstrip().endswith("ValueError: 1")
    assert "ValueError: 0\n\nThe above exception was the direct cause" in failure.traceback
    assert "in throw\n    raise error" in failure.traceback


def with_notes(error, *notes):
    for note in notes:
        error.add_note(note)
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (with_notes(ValueError("refused"), "see ticket 7", "of 2"), "refused\nsee ticket 7\nof 2"),
        (with_notes(ValueError(), "see ticket 7"), "see ticket 7"),
        (ValueError("duplicate key\nDETAIL:  Key"), "duplicate key\nDETAIL:  Key"),
        (
            ExceptionGroup("three bounced", [ValueError("a"), KeyError("b")]),
            "three bounced (2 sub-exceptions)",
        ),
        (
            caught(compile, "a = (", "template.py", "exec"),
            "'(' was never closed (template.py, line 1)",
        ),
        (KeyError("name"), "'name'"),
        (ValueError(), ""),
    ],
    ids=["notes", "only a note", "lines", "group", "syntax", "key", "none"],
)
def test_the_message_is_what_the_error_says_and_not_a_line_of_its_traceback(error, message):
    """Kind of fault: the last line of a traceback is a note, a frame or a detail."""
    assert describe(error).message == message


def test_a_note_changes_no_fingerprint():
    noted = with_notes(ValueError("refused"), "see ticket 7")

    assert describe(noted).fingerprint == describe(ValueError("refused")).fingerprint
    only_noted = with_notes(ValueError(), "see ticket 7")
    assert describe(only_noted).fingerprint == describe(ValueError()).fingerprint


def test_a_long_message_keeps_its_beginning_and_shows_that_it_was_cut():
    """Kind of fault: a list shows the end of a message as if it were all of it."""
    message = describe(ValueError("first words " + "x" * 5_000_000)).message

    assert message.startswith("first words xxx")
    assert (len(message), message[-2:]) == (MAX_MESSAGE, "x…")
    assert describe(ValueError("x" * MAX_MESSAGE)).message == "x" * MAX_MESSAGE


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one", "one"),
        ("\n\n one \r\ntwo", "one"),
        ("one\u2028two", "one"),
        ("x" * 11, "x" * 9 + "…"),
        (" \n", ""),
    ],
)
def test_the_first_line_is_one_line_and_says_that_it_was_cut(text, line):
    assert first_line(text, 10) == line


def test_error_class_includes_its_module():
    assert describe(Odd(str)).error_class == "tests.bgtask.test_failures.Odd"


def test_long_text_keeps_its_head_and_more_of_its_tail():
    kept = storable("head " + "x" * 5_000_000 + " tail", 1_000)

    assert kept.startswith("head xxx")
    assert kept.endswith("xxx tail")
    assert "characters left out" in kept
    assert kept.index("left out") < 500


@given(text, st.integers(0, 200))
def test_any_text_becomes_storable(given_text, limit):
    assert is_storable(storable(given_text, limit), limit)


@given(text)
def test_any_message_becomes_storable(message):
    failure = describe(ValueError(message))

    assert is_storable(failure.message, MAX_MESSAGE)
    assert is_storable(failure.traceback, MAX_TEXT)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00:=@)"), max_size=300))
def test_ordinary_text_is_unchanged(ordinary):
    assert storable(ordinary) == ordinary


# Secrets

SECRET = "hunter2"


@pytest.mark.parametrize(
    "spoken",
    [
        "postgres://ada:hunter2@db.example.org/app",
        "could not connect to amqp+ssl://:hunter2@host:5671//",
        "login(user='ada', password='hunter2')",
        'login(user="ada", Password="hunter2")',
        "password=hunter2 host=db",
        "{'api_key': 'hunter2', 'id': 5}",
        '{"api-key": "hunter2"}',
        "Authorization: Bearer hunter2",
        "authorization: Basic hunter2",
        "Authorization: Token hunter2",
        "GET /?user=ada&token=hunter2&page=2",
        "AWS_SECRET_ACCESS_KEY=hunter2",
        "client_secret: hunter2",
        "new_passwd = hunter2",
        "DETAIL:  Key (email)=(hunter2) already exists.",
        "password='hunter2",
    ],
)
def test_secrets_are_masked(spoken):
    written = describe(ValueError(spoken))

    assert SECRET not in written.message
    assert SECRET not in written.traceback
    assert "********" in written.message


@pytest.mark.parametrize(
    ("spoken", "written"),
    [
        ("https://ada:x@example.org/a?b=c", "https://ada:********@example.org/a?b=c"),
        ("f(user='ada', token='x', n=5)", "f(user='ada', token=********, n=5)"),
    ],
)
def test_text_beside_a_secret_is_kept(spoken, written):
    assert redact(spoken) == written


@pytest.mark.parametrize(
    "spoken",
    [
        "https://example.org:8000/path",
        "The password is wrong.",
        "user 7 not found",
        "at 12:30:45: KeyError: 'name'",
    ],
)
def test_text_without_secrets_is_kept(spoken):
    assert redact(spoken) == spoken


@pytest.mark.parametrize(
    "unit", ["password", "a://", "://:@", "token=", "Key (", "'", "-", "password='", "a:b@"]
)
def test_masking_any_text_is_quick(unit):
    started = time.monotonic()

    redact(unit * (32_000 // len(unit)))

    assert time.monotonic() - started < 20


# Kinds of error


def fingerprint_of(function, *args):
    return describe(caught(function, *args)).fingerprint


def missing(what):
    raise LookupError(what)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("user 7 not found", "user 812 not found"),
        ("no file 'a.txt'", "no file 'b.txt'"),
        ("ada@example.org is unknown", "bob@example.com is unknown"),
        ("at 0x7f00aa", "at 0x7f00bb"),
        (
            "order 5f0c2c1e-9a54-4f0e-8a51-6d1f2f3a4b5c",
            "order 0a1b2c3d-1111-2222-3333-444455556666",
        ),
        ("first line\nsecond line 1", "first line\nanother second line"),
    ],
)
def test_errors_of_one_kind_have_one_fingerprint(one, other):
    assert fingerprint_of(missing, one) == fingerprint_of(missing, other)


def test_only_frames_of_bgtask_are_not_project_code():
    package = Path(failures.__file__).parent

    assert not is_project_code(str(package / "runner" / "pool.py"))
    assert is_project_code(str(package) + "_jobs/tasks.py")


def test_errors_of_different_kinds_have_different_fingerprints():
    fingerprints = {
        fingerprint_of(missing, "user 7 not found"),
        fingerprint_of(missing, "order 7 not found"),
        fingerprint_of(throw, LookupError("user 7 not found")),
        fingerprint_of(throw, ValueError("user 7 not found")),
    }

    assert len(fingerprints) == 4
