"""What a supervisor hears from its processes, and how it starts them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from bgtask.worker.child import EXITING, Child, reporter
from bgtask.worker.supervisor import Supervisor
from tests.helpers import eventually


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def child(pipe):
    return Child(process=None, pipe=pipe[0], started=0.0, heard=0.0)


def test_supervisor_reads_each_of_many_reports_whole(child, pipe):
    os.write(pipe[1], b"12345\n" * 1_500)

    child.listen()

    assert child.workers == {12345}


def test_supervisor_reads_a_report_that_arrives_in_two_parts(child, pipe):
    os.write(pipe[1], b"12")
    child.listen()
    os.write(pipe[1], b"345\n")
    child.listen()

    assert child.workers == {12345}


def test_supervisor_reads_the_reason_of_the_exit(child, pipe):
    tell = reporter(pipe[1])
    tell(0)
    tell(7)
    tell(EXITING)

    child.listen()

    assert (child.workers, child.exit_message) == ({7}, EXITING)


@pytest.mark.django_db
def test_failed_start_of_a_process_is_retried_later(monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    supervisor = Supervisor(["manage.py", "process_tasks"], processes=2)
    files = len(os.listdir("/proc/self/fd"))
    attempts = threading.Thread(
        target=lambda: (
            eventually(lambda: caplog.text.count("could not be started") >= 3),
            supervisor.stop(),
        )
    )
    attempts.start()

    supervisor.run()

    attempts.join()
    assert caplog.text.count("could not be started") >= 3
    assert len(os.listdir("/proc/self/fd")) <= files
    assert not subprocess._active
