"""What tasks print becomes lines of the log, each of one thread."""

from __future__ import annotations

import logging
import sys
import threading

import pytest

from bgtask.worker.logs import LogStream, configured


@pytest.fixture
def stream(caplog):
    caplog.set_level(logging.INFO, "bgtask")
    return LogStream(logging.INFO, sys.stdout)


def in_a_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()


def test_partial_lines_of_two_threads_are_not_joined(stream, caplog):
    stream.write("one ")
    in_a_thread(stream.write, "another line\n")
    stream.write("line\n")

    assert caplog.messages == ["another line", "one line"]


def test_flush_logs_the_partial_line_of_this_thread(stream, caplog):
    stream.write("in the middle ")
    in_a_thread(lambda: print("at once", end="", file=stream, flush=True))
    stream.write("of a line\n")

    assert caplog.messages == ["at once", "in the middle of a line"]


def test_partial_lines_of_all_threads_are_logged_at_the_end(caplog):
    caplog.set_level(logging.INFO, "bgtask")

    with configured(None, None, log_std=True):
        in_a_thread(sys.stdout.write, "a last word of a thread that is gone")
        sys.stderr.write("a last word of this one")

    assert set(caplog.messages) == {
        "a last word of a thread that is gone", "a last word of this one"
    }  # fmt: skip
