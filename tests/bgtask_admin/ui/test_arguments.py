from __future__ import annotations

import pytest

from bgtask.models import Task
from bgtask.redaction import MASK
from bgtask_admin.ui.arguments import arguments_in_a_line, arguments_of, masked, result_of


def test_masks_by_name_at_any_depth():
    value = {"user": {"api_key": "k", "deep": [{"Password": "p"}]}, "note": "n", "secret": None}

    assert masked(value) == {
        "user": {"api_key": MASK, "deep": [{"Password": MASK}]},
        "note": "n",
        "secret": None,
    }


def test_masks_passwords_in_urls():
    assert masked("smtp://me:hunter2@example.org") == f"smtp://me:{MASK}@example.org"


def test_positional_arguments_are_named():
    task = Task(task_name="tests.tasks.add", task_params="[[1, 2], {}]")

    assert arguments_in_a_line(task) == "a=1, b=2"


def test_arguments_of_an_unknown_function_are_numbered():
    task = Task(task_name="no.such.function", task_params='[[1], {"token": "t"}]')

    assert arguments_in_a_line(task) == f'0=1, token="{MASK}"'


@pytest.mark.parametrize("params", ["", "[[", '{"a": 1}', "[[" * 10_000])
def test_malformed_arguments_are_shown_as_an_error(params):
    assert "task_params" in arguments_of(Task(task_name="x", task_params=params))


@pytest.mark.parametrize(
    ("stored", "shown"), [(None, ""), ('{"token": "t"}', MASK), ("no json", "no json")]
)
def test_results_are_formatted(stored, shown):
    assert shown in result_of(Task(return_value=stored))
