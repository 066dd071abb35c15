"""An app that only a process of its own knows: it may be as wrong as a test wants it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

from tests.processes import ROOT


class App:
    """``shop``, a package with the modules a test gives it."""

    def __init__(self, directory: Path, env: Mapping[str, str]) -> None:
        self._directory = directory
        self._env = env
        self.module("__init__", "")

    def path(self, module: str) -> Path:
        return self._directory / "shop" / f"{module}.py"

    def module(self, name: str, source: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(dedent(source))

    def tasks(self, source: str) -> None:
        self.module("tasks", source)

    def run(
        self,
        *command: str,
        installed: str = "shop",
        first: str = "",
        database: Mapping[str, object] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a management command to its end in a project that has the app installed."""
        settings = json.loads(self._env["BGTASK_TEST_DATABASE"]) | dict(database or {})
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "django", *command],
            cwd=ROOT,
            env={
                **self._env,
                "BGTASK_TEST_APPS": installed,
                "BGTASK_TEST_APPS_FIRST": first,
                "BGTASK_TEST_DATABASE": json.dumps(settings),
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(self._directory)]),
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
