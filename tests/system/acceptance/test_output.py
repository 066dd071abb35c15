"""What a worker writes to its log, and what the tasks print."""

from __future__ import annotations

import os

import pytest

from bgtask.models import Task
from tests import tasks

pytestmark = pytest.mark.acceptance


@pytest.fixture
def log(tmp_path):
    return tmp_path / "worker.log"


@pytest.mark.sample
def test_log_file_has_the_errors(worker, log):
    bad = tasks.fail("no luck today")

    worker("--drain", f"--log-file={log}").wait()

    assert f"WARNING {bad} will be tried again; attempt 1 of 25 failed." in log.read_text()
    assert "RuntimeError: no luck today" in log.read_text()


def test_log_file_is_appended_to(worker, log):
    log.write_text("before\n")

    worker("--drain", f"--log-file={log}").wait()

    assert log.read_text().startswith("before\n")
    assert "has left." in log.read_text()


def test_log_level_debug_logs_each_task(worker, log):
    good = tasks.add(1, 2)

    worker("--drain", f"--log-file={log}", "--log-level=debug").wait()

    assert f"DEBUG {good} succeeded in " in log.read_text()


def test_log_level_leaves_out_what_is_less_important(worker, log):
    tasks.add(1, 2)
    tasks.fail("no luck today")

    worker("--drain", f"--log-file={log}", "--log-level=warning").wait()

    assert "RuntimeError: no luck today" in log.read_text()
    assert " INFO " not in log.read_text()


def test_log_std_puts_what_tasks_print_into_the_log(worker, log):
    tasks.say("all is well")

    worker("--drain", "--log-std", f"--log-file={log}").wait()

    assert "INFO all is well\n" in log.read_text()


def test_log_std_keeps_a_last_line_without_an_end(worker, log):
    tasks.say("the end", end="")

    child = worker("--drain", "--log-std", f"--log-file={log}")

    assert child.wait() == 0
    assert "INFO the end\n" in log.read_text()


def test_log_std_keeps_the_lines_of_threads_apart(worker, log):
    tasks.say.enqueue_many([(f"line {number:03}.",) for number in range(200)])

    worker("--drain", "--threads=4", "--log-std", f"--log-file={log}").wait()

    said = [line.partition(" INFO ")[2] for line in log.read_text().splitlines()]
    assert sorted(line for line in said if line.startswith("line")) == [
        f"line {number:03}." for number in range(200)
    ]


def test_log_std_is_still_a_stream_that_libraries_can_ask(worker, log):
    task = tasks.describe_stdout()

    child = worker("--drain", "--log-std", f"--log-file={log}")

    assert child.wait() == 0
    task.refresh_from_db()
    inode = os.stat(child.log).st_ino
    assert task.return_value == f'{{"encoding": "utf-8", "tty": false, "inode": {inode}}}'


def test_without_log_std_tasks_print_to_standard_output(worker, log):
    tasks.say("hello from a task")

    child = worker("--drain", f"--log-file={log}")

    assert child.wait() == 0
    assert "hello from a task" in child.output()
    assert "hello from a task" not in log.read_text()


def test_control_characters_cannot_forge_lines_of_the_log(worker, log):
    tasks.say("\x1b[2Jcleared\rforged")

    worker("--drain", "--log-std", f"--log-file={log}").wait()

    assert "INFO \\x1b[2Jcleared\\x0dforged\n" in log.read_text()
    assert Task.objects.succeeded().count() == 1


def test_errors_and_task_names_cannot_forge_lines_of_the_log(worker, log):
    tasks.fail("no luck\n2026-01-01 00:00:00,000 ERROR forged")
    Task.objects.enqueue("nobody\n2026-01-01 00:00:00,000 ERROR forged")

    worker("--drain", f"--log-file={log}").wait()

    assert "ERROR forged" in log.read_text()
    assert "\n2026-01-01" not in log.read_text()
