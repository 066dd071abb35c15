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

    (line,) = [line for line in log.read_text().splitlines() if "no luck" in line]
    assert line.endswith(
        f"WARNING {bad} will be tried again; attempt 1 of 25 failed. RuntimeError: no luck today"
    )


def test_log_file_has_the_traceback_of_a_final_failure(worker, log):
    bad = tasks.fail.using(max_attempts=1)("no luck, password=hunter2")

    worker("--drain", f"--log-file={log}").wait()

    bad.refresh_from_db()
    traceback = bad.last_error.rstrip().replace("\n", "\n    ")
    assert f"ERROR {bad} has failed; attempt 1 of 1 failed. RuntimeError: no" in log.read_text()
    assert traceback in log.read_text()
    assert "hunter2" not in log.read_text()


@pytest.mark.parametrize(
    ("verbosity", "levels"),
    [
        ("--verbosity=0", {"WARNING"}),
        ("--verbosity=1", {"INFO", "WARNING"}),
        ("-v2", {"INFO", "WARNING"}),
        ("-v3", {"DEBUG", "INFO", "WARNING"}),
    ],
)
def test_verbosity_decides_how_much_is_logged(worker, log, verbosity, levels):
    good = tasks.add(1, 2)
    tasks.fail("no luck today")

    worker("--drain", f"--log-file={log}", verbosity).wait()

    written = log.read_text()
    assert {line.split()[2] for line in written.splitlines()} <= levels
    assert ("INFO" in levels) == (" INFO Worker " in written)
    assert (f"INFO {good} succeeded in " in written) == (verbosity in ("-v2", "-v3"))


def test_log_level_comes_before_verbosity(worker, log):
    tasks.add(1, 2)

    worker("--drain", f"--log-file={log}", "-v2", "--log-level=warning").wait()

    assert " INFO " not in log.read_text()


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
