"""Command lines with bytes that no encoding has, and values that can't be numbers."""

from __future__ import annotations

import contextlib
import io

import pytest
from django.core.management import execute_from_command_line, load_command_class
from django.core.management.base import BaseCommand

pytestmark = pytest.mark.django_db

APPS = {
    "bgtask_worker": "bgtask", "process_tasks": "bgtask", "bgtask_prune": "bgtask",
    "prune_tasks": "bgtask", "bgtask_stats": "bgtask", "bgtask_health": "bgtask",
    "bgtask_requeue": "bgtask_admin",
}  # fmt: skip
DJANGOS_OWN = {action.dest for action in BaseCommand().create_parser("manage.py", "any")._actions}
BYTES = b"\xff".decode("utf-8", "surrogateescape")  # As Python reads them from a command line.
HUGE = "9" * 5_000
NO_ENCODING = "/there-is-no-such-directory/" + BYTES


def own_options():
    """Return each command with each option of its own, in one spelling."""
    for name, app in APPS.items():
        parser = load_command_class(app, name).create_parser("manage.py", name)
        for action in parser._actions:
            if action.option_strings and action.dest not in DJANGOS_OWN:
                yield name, action.option_strings[0]


def run(*argv):
    """Run the command line, and return its status and the lines of both streams."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", "strict")
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")  # As Python opens them.
    status = 0
    # Warnings about functions of other tests would be further lines. This command has no checks.
    skip = [] if argv[0] == "bgtask_health" else ["--skip-checks"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            execute_from_command_line(["manage.py", argv[0], *skip, *argv[1:]])
        except SystemExit as exit_:
            status = exit_.code
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode().splitlines())
    return status, *texts


@pytest.mark.parametrize(("name", "option"), list(own_options()))
def test_an_option_that_no_encoding_has_is_refused_in_one_line(name, option):
    """Kind of fault: a byte of the command line ends in a traceback."""
    status, out, err = run(name, f"{option}={NO_ENCODING}")

    if name == "bgtask_health":
        assert (status, len(out), err) == (3, 1, [])
    else:
        assert (out, len(err)) == ([], 1)
        assert status in (1, 2)  # CommandError, or an error of the parser.
    assert "Traceback" not in "".join(out + err)


@pytest.mark.parametrize("name", APPS)
@pytest.mark.parametrize("words", [[BYTES], [f"--nonsense={BYTES}"], ["--nonsense", BYTES]])
def test_words_that_no_encoding_has_are_refused_in_one_line(name, words):
    status, out, err = run(name, *words)

    assert status in ((3,) if name == "bgtask_health" else (1, 2))
    assert len(out + err) == 1


@pytest.mark.parametrize(
    ("name", "option"), [pair for pair in own_options() if pair[1] not in ("--error", "--task",
     "--worker", "--fingerprint", "--error-class", "--log-file")]
)  # fmt: skip
def test_a_number_of_thousands_of_digits_is_refused_in_one_line(name, option):
    status, out, err = run(name, f"{option}={HUGE}")

    assert status in ((3,) if name == "bgtask_health" else (1, 2))
    assert len(out + err) == 1


@pytest.mark.parametrize("option", ["--error-class", "--queue"])
def test_the_error_names_the_option_and_has_the_status_of_a_command_error(option):
    assert run("bgtask_requeue", f"{option}={BYTES}") == (
        1, [], [f"CommandError: {option}='\\udcff' has characters that no encoding has."],
    )  # fmt: skip
