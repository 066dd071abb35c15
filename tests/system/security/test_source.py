"""Test what the packages never do."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = sorted([*ROOT.glob("bgtask/**/*.py"), *ROOT.glob("bgtask_admin/**/*.py")])

# By these, text could become code, or an object of any class.
EVALUATION = {"eval", "exec", "compile", "__import__"}
IMPORT = {"import_module", "import_string", "literal_eval", "locate"}
# Who imports by a text, and where that text comes from.
IMPORTERS = {
    "bgtask/apps.py": "BACKEND in the settings",
    "bgtask/backend/api.py": "constants of the module",
    "bgtask/backend/checks.py": "OPTIONS['modules'] in the settings",
    "bgtask/backend/finder.py": "the name of a row, if it is part of an app or in the settings",
}
FOREIGN = {"pickle", "marshal", "shelve", "yaml", "dill", "cloudpickle"}
# Read in slices instead: outside of a transaction these fail behind a connection pooler.
CURSORS = {"iterator", "aiterator", "chunked_cursor", "create_cursor"}
CLIENTS = {"http", "urllib", "requests", "httpx", "smtplib", "ftplib", "aiohttp", "telnetlib"}


def names_called(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id
            elif isinstance(node.func, ast.Attribute) and node.func.attr in IMPORT:
                yield node.func.attr


def modules_imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.fixture(params=SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def tree(request):
    return ast.parse(request.param.read_text())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_is_executed(path):
    called = set(names_called(ast.parse(path.read_text())))

    assert not EVALUATION & called
    assert bool(IMPORT & called) == (str(path.relative_to(ROOT)) in IMPORTERS)


def test_no_format_but_json_is_read(tree):
    assert not FOREIGN & {name.partition(".")[0] for name in modules_imported(tree)}


def test_no_cursor_stays_open_on_the_server(tree):
    """Kind of fault: a statement needs the state of a session, which a pooler may not keep."""
    called = {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }

    assert not CURSORS & called


def test_no_module_imports_a_network_client(tree):
    modules = set(modules_imported(tree)) - {"urllib.parse", "http.HTTPStatus"}

    assert not CLIENTS & {name.partition(".")[0] for name in modules if name != "http"}
