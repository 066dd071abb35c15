"""Test the demo as a new user starts it."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from tests.helpers import eventually
from tests.processes import ROOT

pytestmark = [pytest.mark.acceptance, pytest.mark.slow, pytest.mark.vendor("sqlite")]

STARTED = "process_tasks --threads"


class RunningDemo:
    def __init__(self, folder: Path, *options: str, **env: str) -> None:
        self.folder = folder
        self._log = folder.with_suffix(".out")
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "demo", *options],
                cwd=ROOT,
                env={**_env(), "SITE_DIR": str(folder), **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def output(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def says(self, words: str, timeout: float = 90) -> None:
        eventually(lambda: words in self.output(), timeout=timeout, explain=self.output)

    def end(self, signum: signal.Signals | None = None) -> int:
        if signum is not None:
            self.process.send_signal(signum)
        return self.process.wait(90)

    def workers(self) -> list[int]:
        """Return the pids of the workers that have registered."""
        with closing(sqlite3.connect(self.folder / "db.sqlite3", timeout=20)) as database:
            return [pid for (pid,) in database.execute("SELECT pid FROM bgtask_worker")]


def _env() -> dict[str, str]:
    """Return our environment without the variables that would make the demo use test settings."""
    ours = {"DJANGO_SETTINGS_MODULE", "SITE_DIR", "EMAIL_URL", "DIRECTORY", "DEBUG", "SECRET_KEY"}
    return {name: value for name, value in os.environ.items() if name not in ours}


@pytest.fixture
def demo(tmp_path):
    running: list[RunningDemo] = []

    def start(*options: str, **env: str) -> RunningDemo:
        running.append(RunningDemo(tmp_path / "demo", *options, **env))
        return running[-1]

    yield start
    for demo in running:
        if demo.process.poll() is None:
            demo.end(signal.SIGTERM)


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_all_tasks_of_the_demo_end_as_expected(demo):
    demo = demo("--exit")

    assert demo.end() == 0, demo.output()

    output = demo.output()
    (total,) = re.findall(r"(\d+) tasks enqueued", output)
    assert int(total) > 200
    assert f"{total} of {total} tasks stand as they should" in output
    assert "ConnectionRefusedError" in output
    assert "KeyError: 'honorary'" in output
    assert "wrong" not in output
    assert "\r" not in output
    assert len(list(demo.folder.glob("outbox/*.eml"))) > 100
    assert len(list(demo.folder.glob("media/cards/*.png"))) == 60
    log = (demo.folder / "worker.log").read_text(encoding="utf-8")
    errors = re.findall(r"^.* (?:ERROR|CRITICAL) .*$", log, re.MULTILINE)
    assert [line for line in errors if "example_project.members.tasks." not in line] == []
    assert not any(map(is_running, demo.workers()))


def test_serves_the_site_until_ctrl_c(demo, port):
    demo = demo(f"--port={port}")
    demo.says("Ctrl-C stops")

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
        assert b"membership cards" in page.read().lower()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/media/cards/M-0001.png") as card:
        assert card.headers["Content-Type"] == "image/png"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/admin/") as page:
        assert b"Log in" in page.read()

    assert demo.end(signal.SIGINT) == 0
    assert "Traceback" not in demo.output()
    assert not any(map(is_running, demo.workers()))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize(
    "signum", [pytest.param(signal.SIGINT, marks=pytest.mark.sample), signal.SIGTERM]
)
def test_demo_can_be_stopped_early(demo, signum):
    demo = demo("--exit")
    demo.says(STARTED)
    eventually(demo.workers)

    assert demo.end(signum) == 130

    assert "Traceback" not in demo.output()
    assert not any(map(is_running, demo.workers()))


def test_demo_restarts_in_the_folder_of_an_earlier_demo(demo):
    first = demo("--exit")
    first.says(STARTED)
    first.end(signal.SIGTERM)

    second = demo("--exit")

    second.says(STARTED)


def test_demo_reports_a_used_port(demo, port):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()

        demo = demo(f"--port={port}")

        assert demo.end() == 1
    (line,) = demo.output().splitlines()
    assert f"127.0.0.1:{port}" in line
    assert f"--port={port + 1}" in line


def test_demo_reports_a_missing_pillow(demo, tmp_path):
    # A module without a loader is one that nobody finds.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *args: None if name == 'PIL' else find(name, *args)\n"
    )

    demo = demo("--exit", PYTHONPATH=str(tmp_path))

    assert demo.end() == 1
    (line,) = demo.output().splitlines()
    assert "pip install -e '.[demo]'" in line
