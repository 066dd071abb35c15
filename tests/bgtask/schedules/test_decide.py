"""Test what is decided about the slots that are due, for each way to treat missed slots."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bgtask.models.schedule import Decision
from bgtask.schedules.decide import MAX_COUNTED, MAX_SLOTS, delayed, plan
from bgtask.schedules.timetable import Timetable

HOURLY = Timetable("cron", "0 * * * *", UTC)
NINE = datetime(2026, 11, 26, 9, tzinfo=UTC)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


def decided(found):
    return [(one.slot, one.decision, one.missed) for one in found.decided]


@pytest.mark.parametrize("misfire", ["one", "none", "all"])
def test_a_slot_in_time_is_run(misfire):
    found = plan(HOURLY, misfire, 60, NINE, NINE + SECOND)
    assert decided(found) == [(NINE, Decision.ENQUEUED, 0)]
    assert found.next_at == NINE + HOUR


def test_one_runs_the_newest_slot_which_stands_for_the_others():
    found = plan(HOURLY, "one", 60, NINE, NINE + 5 * HOUR + SECOND)
    assert decided(found) == [(NINE + 5 * HOUR, Decision.ENQUEUED, 5)]
    assert found.next_at == NINE + 6 * HOUR


def test_one_runs_a_late_slot_after_its_grace():
    found = plan(HOURLY, "one", 60, NINE, NINE + HOUR - SECOND)
    assert decided(found) == [(NINE, Decision.ENQUEUED, 0)]


def test_all_runs_each_slot():
    found = plan(HOURLY, "all", 60, NINE, NINE + 2 * HOUR + SECOND)
    assert decided(found) == [(NINE + n * HOUR, Decision.ENQUEUED, 0) for n in range(3)]
    assert found.next_at == NINE + 3 * HOUR


def test_all_decides_so_many_slots_in_a_turn_and_goes_on():
    now = NINE + 250 * HOUR
    slots = []
    following = NINE
    for number in (MAX_SLOTS, MAX_SLOTS, 51):
        found = plan(HOURLY, "all", 60, following, now)
        assert len(found.decided) == number
        slots += [one.slot for one in found.decided]
        following = found.next_at
    assert slots == [NINE + n * HOUR for n in range(251)]
    assert following == NINE + 251 * HOUR


def test_none_leaves_out_slots_that_are_later_than_the_grace():
    found = plan(HOURLY, "none", 60, NINE, NINE + 3 * HOUR + 30 * SECOND)
    assert decided(found) == [
        (NINE + 2 * HOUR, Decision.MISSED, 3),
        (NINE + 3 * HOUR, Decision.ENQUEUED, 0),
    ]
    assert found.next_at == NINE + 4 * HOUR


@pytest.mark.parametrize(("seconds", "decision"), [(60, Decision.ENQUEUED), (61, Decision.MISSED)])
def test_none_has_an_exact_limit(seconds, decision):
    found = plan(HOURLY, "none", 60, NINE, NINE + seconds * SECOND)
    assert [one.decision for one in found.decided] == [decision]
    assert found.next_at == NINE + HOUR


@pytest.mark.parametrize("misfire", ["one", "none"])
def test_missed_slots_are_counted_up_to_a_bound(misfire):
    minutely = Timetable("every", "60", UTC)
    found = plan(minutely, misfire, 60, NINE, NINE + timedelta(days=30, seconds=1))
    assert found.decided[0].missed == MAX_COUNTED + 1


def test_after_the_last_slot_there_is_nothing_to_come():
    once = Timetable("at", NINE.isoformat(), UTC)
    found = plan(once, "one", 60, NINE, NINE + SECOND)
    assert decided(found) == [(NINE, Decision.ENQUEUED, 0)]
    assert found.next_at is None


def test_a_next_slot_that_the_definition_does_not_know_is_decided_as_it_is():
    odd = NINE + 7 * SECOND
    found = plan(HOURLY, "one", 60, odd, odd + SECOND)
    assert decided(found) == [(odd, Decision.ENQUEUED, 0)]


def test_jitter_is_the_same_in_each_process_and_within_its_bound():
    delays = {delayed("key", NINE + n * HOUR, 30) - (NINE + n * HOUR) for n in range(200)}
    assert len(delays) > 150
    assert all(timedelta() <= delay < timedelta(seconds=30) for delay in delays)
    assert delayed("key", NINE, 30) == delayed("key", NINE, 30)
    assert delayed("key", NINE, 0) == NINE
