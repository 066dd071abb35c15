"""
A plugin of pytest that leaves out slow tests, except those marked as a sample.

``python -m tests`` loads it, unless ``--all`` is given. It leaves out nothing if the command
line names what to run, by a path, ``-k``, ``-m`` or ``--last-failed``. ``pytest`` by itself
doesn't load it.
"""

from __future__ import annotations

import pytest

LEFT_OUT = "tests of real processes, faults, browsers and many rows were left out: --all runs them"

_left_out = pytest.StashKey[int]()


@pytest.hookimpl(trylast=True)  # Don't count what -m leaves out anyway.
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _names_what_to_run(config):
        return
    left_out = [item for item in items if _is_slow(item) and not _is_sample(item)]
    config.stash[_left_out] = len(left_out)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not _is_slow(item) or _is_sample(item)]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if count := config.stash.get(_left_out, 0):
        terminalreporter.write_line(f"{count} {LEFT_OUT}")


def _names_what_to_run(config: pytest.Config) -> bool:
    return bool(
        config.args_source is config.ArgsSource.ARGS
        or config.getoption("keyword")
        or config.getoption("lf")
        # pyproject.toml gives an -m as well, so the value of the option doesn't tell.
        or any(argument.startswith("-m") for argument in config.invocation_params.args)
    )


def _is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


def _is_sample(item: pytest.Item) -> bool:
    return item.get_closest_marker("sample") is not None
