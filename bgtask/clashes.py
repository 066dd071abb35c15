"""Check whether other apps have management commands with the names of bgtask's."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Info, Warning

from bgtask.db.internals import command_names, command_of

OURS = "bgtask"
# Each pair is one command with two names.
OTHER_NAMES = {
    "process_tasks": "bgtask_worker",
    "bgtask_worker": "process_tasks",
    "prune_tasks": "bgtask_prune",
    "bgtask_prune": "prune_tasks",
}


def check_commands(**kwargs: Any) -> list[CheckMessage]:
    """
    Report commands of bgtask that hide, or are hidden by, those of other apps.

    Django runs the command of the app that is first in INSTALLED_APPS, without a warning.
    """
    ours = command_names(apps.get_app_config(OURS))
    providers: dict[str, list[AppConfig]] = {name: [] for name in ours}
    for app in apps.get_app_configs():
        for name in set(command_names(app)).intersection(providers):
            providers[name].append(app)
    return [
        message
        for name, some in sorted(providers.items())
        for message in _clashes(name, some[0], some[1:], _way_out(name, providers))
    ]


def _way_out(name: str, providers: dict[str, list[AppConfig]]) -> str:
    """Return the advice to use the command's other name, if that name runs our command."""
    other = OTHER_NAMES.get(name)
    if other is None or providers[other][0].name != OURS:
        return ""
    return f"Run manage.py {other}: it is the same command of {OURS!r}. Or put"


def _clashes(
    name: str, winner: AppConfig, hidden: list[AppConfig], way_out: str
) -> Iterator[CheckMessage]:
    if winner.name != OURS and not _extends_ours(winner, name):
        yield Warning(
            f"manage.py {name} runs the command of {winner.name!r}, which hides that of {OURS!r}.",
            hint=f"{way_out or 'Put'} {OURS!r} before {winner.name!r} in INSTALLED_APPS. If you "
            "need the other command as well, subclass it in a command of your own with another "
            "name.",
            id="bgtask.W012",
        )
        return
    for app in hidden:
        if app.name != OURS:
            yield Info(
                f"manage.py {name} runs the command of {winner.name!r}, which hides that of "
                f"{app.name!r}.",
                hint="If you need the other command as well, subclass it in a command of your own "
                "with another name.",
                id="bgtask.I012",
            )


def _extends_ours(app: AppConfig, name: str) -> bool:
    """Return whether the app's command is a subclass of bgtask's, made on purpose."""
    if _extends_django(Path(app.path) / "management" / "commands" / f"{name}.py"):
        return False
    try:
        return isinstance(command_of(app.name, name), type(command_of(OURS, name)))
    except (Exception, SystemExit):
        # A broken command must not end the check. Django shows its error when the command is run.
        return False


def _extends_django(path: Path) -> bool:
    """Return whether the module's command extends one of Django's, without importing it."""
    try:
        module = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    origins = {
        alias.asname or alias.name: node.module or ""
        for node in module.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return any(
        isinstance(node, ast.ClassDef)
        and node.name == "Command"
        and bool(node.bases)
        and all(
            isinstance(base, ast.Name) and origins.get(base.id, "").startswith("django.")
            for base in node.bases
        )
        for node in module.body
    )
