"""Each action is told in sentences of its own, with the right plural."""

from __future__ import annotations

import json

import pytest

from bgtask_admin.actions import sentences
from bgtask_admin.actions.registry import ACTIONS
from bgtask_admin.models import Operation


@pytest.mark.parametrize("verb", ACTIONS)
def test_every_action_has_a_singular_and_a_plural_sentence(verb):
    """Plurals: one task and many tasks, in a sentence that names the number once."""
    one, many = (
        sentences.done(Operation(verb=verb, changed=number, filter="{}")) for number in (1, 1_204)
    )

    assert "1 " in one
    assert "1,204 " in many
    assert one.replace("1 ", "1,204 ") != many
    assert (one[-1], many[-1]) == (".", ".")
    assert "1,204 " in sentences.asked(verb, 1_204)
    assert "all" in sentences.asked(verb, None)


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        ({"status": "READY"}, {}, "2 tasks cancelled."),
        ({"status": "RUNNING"}, {}, "2 running tasks asked to stop."),
        ({"status": "RUNNING"}, {"force": True}, "2 tasks cancelled."),
        (
            {"queue": "mail"},
            {"force": False},
            "2 tasks cancelled, or asked to stop if they are running.",
        ),
    ],
)
def test_cancelled_tasks_and_cancel_requests_are_counted_separately(given, options, said):
    """Cancel: a result that claims less, or more, than is known."""
    operation = Operation(
        verb="cancel", changed=2, filter=json.dumps(given), options=json.dumps(options)
    )

    assert sentences.done(operation) == said


def test_each_reason_to_skip_is_a_sentence():
    """Skipped: one number for several reasons."""
    reasons = {"gone": 1, "RUNNING": 1_204, "referred:shop_job": 2}

    assert sentences.skipped(reasons, with_messages=True) == [
        "1,204 tasks skipped: already running.",
        "2 tasks skipped: rows of shop_job refer to them.",
        "1 task skipped: it changed meanwhile.",
    ]
