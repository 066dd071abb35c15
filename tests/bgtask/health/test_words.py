from __future__ import annotations

import pytest

from bgtask.health import duration
from bgtask.health.formatting import percent


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 m"),
        (300, "5 m"),
        (412, "6 m 52 s"),
        (3600, "1 h"),
        (3605, "1 h"),
        (7260, "2 h 1 m"),
        (90_000, "1 d 1 h"),
        (86_400 * 400, "400 d"),
    ],
)
def test_durations_are_rounded_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("ratio", "words"), [(0, "0 %"), (0.004, "0.4 %"), (0.05, "5 %"), (1, "100 %")]
)
def test_small_share_is_not_shown_as_zero(ratio: float, words: str) -> None:
    assert percent(ratio) == words
