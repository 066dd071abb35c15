"""How long to wait before the next attempt."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgtask.retries import MAX_DELAY_SECONDS, as_seconds, backoff

waits = (
    st.floats(0, MAX_DELAY_SECONDS)
    | st.integers(0, 10**6)
    | st.timedeltas(timedelta(), timedelta(3_000))
)


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(1, 6), (2, 21), (3, 86), (4, 261), (5, 630), (24, 331_781)]
)
def test_default_backoff_is_attempts_to_the_fourth_plus_five(attempts, seconds):
    assert backoff(attempts) == seconds


@given(st.integers(1, 2**31))
def test_backoff_is_at_most_what_every_database_can_add(attempts):
    assert 0 < backoff(attempts, jitter=10) <= MAX_DELAY_SECONDS


@given(waits, st.integers(1, 100))
def test_backoff_rule_is_a_wait_or_a_function(wait, attempts):
    assert backoff(attempts, wait) == backoff(attempts, lambda _: wait) == as_seconds(wait)


def test_backoff_function_gets_the_number_of_attempts():
    assert backoff(7, lambda attempts: attempts * 10) == 70


# Hypothesis sets the seed of ``random`` before each example. So with ``given`` all examples would
# draw the same number.
@pytest.mark.parametrize("jitter", [0.1, 1, 10])
@pytest.mark.parametrize("attempts", [1, 2, 24])
def test_jitter_only_adds_and_up_to_its_share(attempts, jitter):
    wait = attempts**4 + 5

    shares = [backoff(attempts, jitter=jitter) / wait - 1 for _ in range(200)]

    assert -1e-9 <= min(shares) < jitter / 2 < max(shares) <= jitter + 1e-9


@pytest.mark.parametrize("wait", [-1, math.nan, math.inf, timedelta(-1)], ids=repr)
def test_backoff_refuses_an_invalid_wait(wait):
    with pytest.raises(ValueError, match="zero or more seconds"):
        backoff(1, lambda _: wait)
