"""
Test the slots of cron expressions, intervals and single times, above all when clocks change.

The module is long because of the table of cases.
"""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from bgtask.exceptions import InvalidOption
from bgtask.schedules.cron import check_cron
from bgtask.schedules.timetable import (
    Timetable,
    check_ever_fires,
    check_has_slots,
    check_zone,
)
from tests.bgtask.schedules.debian_cron import changes, slots_of

BERLIN, NEW_YORK, KOLKATA, LORD_HOWE = map(
    ZoneInfo, ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")
)
ZONES = [
    "UTC", "Europe/Berlin", "Europe/London", "America/New_York", "America/St_Johns",
    "America/Santiago", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe",
    "Pacific/Auckland", "Pacific/Chatham", "Africa/Cairo",
]  # fmt: skip


def cron(expression, zone):
    return Timetable("cron", expression, zone)


# The table of cases: the expression, the zone, the moment from which to look, and the next slots,
# as the clocks of the zone show them, with the offset from UTC.
CASES = {
    "Berlin, in the gap": (
        "30 2 * * *", BERLIN, "2026-03-28T12:00+01:00",
        ["29T03:00+02:00", "30T02:30+02:00"],
    ),
    "Berlin, in the doubled hour": (
        "30 2 * * *", BERLIN, "2026-10-24T12:00+02:00",
        ["25T02:30+02:00", "26T02:30+01:00"],
    ),
    "Berlin, hourly over the gap": (
        "15 * * * *", BERLIN, "2026-03-29T00:30+01:00",
        ["29T01:15+01:00", "29T03:15+02:00", "29T04:15+02:00"],
    ),
    "Berlin, hourly in the doubled hour": (
        "15 * * * *", BERLIN, "2026-10-25T01:30+02:00",
        ["25T02:15+02:00", "25T02:15+01:00", "25T03:15+01:00"],
    ),
    "Berlin, by minutes in the doubled hour": (
        "*/20 * * * *", BERLIN, "2026-10-25T01:50+02:00",
        ["25T02:00+02:00", "25T02:20+02:00", "25T02:40+02:00", "25T02:00+01:00", "25T02:20+01:00",
         "25T02:40+01:00", "25T03:00+01:00"],
    ),
    "Berlin, begun in the second 2 o'clock": (
        "15 * * * *", BERLIN, "2026-10-25T02:05+01:00", ["25T02:15+01:00", "25T03:15+01:00"],
    ),
    "Berlin, a fixed time begun in the second 2 o'clock": (
        "30 2 * * *", BERLIN, "2026-10-25T02:05+01:00", ["26T02:30+01:00"],
    ),
    "New York, in the gap": (
        "30 2 * * *", NEW_YORK, "2026-03-07T12:00-05:00", ["08T03:00-04:00", "09T02:30-04:00"],
    ),
    "New York, in the gap and right after it": (
        "0 2,3 * * *", NEW_YORK, "2026-03-07T12:00-05:00",
        ["08T03:00-04:00", "09T02:00-04:00", "09T03:00-04:00"],
    ),
    "New York, in the doubled hour": (
        "30 1 * * *", NEW_YORK, "2026-10-31T12:00-04:00", ["01T01:30-04:00", "02T01:30-05:00"],
    ),
    "New York, half-hourly in the doubled hour": (
        "*/30 1 * * *", NEW_YORK, "2026-10-31T12:00-04:00",
        ["01T01:00-04:00", "01T01:30-04:00", "01T01:00-05:00", "01T01:30-05:00", "02T01:00-05:00"],
    ),
    "New York, every second hour": (
        "0 */2 * * *", NEW_YORK, "2026-10-31T23:00-04:00",
        ["01T00:00-04:00", "01T02:00-05:00", "01T04:00-05:00"],
    ),
    "Kolkata has no change": (
        "0 9 * * mon-fri", KOLKATA, "2026-03-27T12:00+05:30", ["30T09:00+05:30", "31T09:00+05:30"],
    ),
    "Lord Howe, in a gap of half an hour": (
        "15 2 * * *", LORD_HOWE, "2026-10-03T12:00+10:30", ["04T02:30+11:00", "05T02:15+11:00"],
    ),
    "Lord Howe, in a doubled half hour": (
        "45 1 * * *", LORD_HOWE, "2026-04-04T12:00+11:00", ["05T01:45+11:00", "06T01:45+10:30"],
    ),
    "Lord Howe, by minutes in a doubled half hour": (
        "*/15 * * * *", LORD_HOWE, "2026-04-05T01:20+11:00",
        ["05T01:30+11:00", "05T01:45+11:00", "05T01:30+10:30", "05T01:45+10:30", "05T02:00+10:30"],
    ),
    "Lord Howe, hourly over the gap": (
        "0 * * * *", LORD_HOWE, "2026-10-04T00:30+10:30", ["04T01:00+10:30", "04T03:00+11:00"],
    ),
    "1 is Monday": ("0 9 * * 1", UTC, "2026-11-26T00:00+00:00", ["30T09:00+00:00"]),
    "7 is Sunday": ("0 9 * * 7", UTC, "2026-11-26T00:00+00:00", ["29T09:00+00:00"]),
    "0 is Sunday": ("0 9 * * 0", UTC, "2026-11-26T00:00+00:00", ["29T09:00+00:00"]),
    "the day of the month or of the week": (
        "0 0 13 * 5", UTC, "2026-11-01T00:00+00:00", ["06T00:00+00:00", "13T00:00+00:00"],
    ),
    "the last day of the month": ("0 0 L * *", UTC, "2026-02-02T00:00+00:00", ["28T00:00+00:00"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_slots_are_those_of_debian_cron(case):
    expression, zone, after, wanted = CASES[case]
    slots = cron(expression, zone).slots(datetime.fromisoformat(after))
    found = [next(slots).astimezone(zone) for _ in wanted]
    assert [f"{one:%dT%H:%M}{one:%z}" for one in found] == [
        w.replace(":00", ":00") for w in (f"{one[:-3]}{one[-2:]}" for one in wanted)
    ]


@pytest.mark.parametrize("case", CASES)
def test_looking_back_finds_the_same_slots(case):
    expression, zone, after, wanted = CASES[case]
    timetable = cron(expression, zone)
    slots = timetable.slots(datetime.fromisoformat(after))
    previous = None
    for _ in wanted:
        slot = next(slots)
        assert timetable.upto(slot) == slot
        assert timetable.upto(slot + timedelta(seconds=30, microseconds=5)) == slot
        if previous is not None:
            assert timetable.upto(slot - timedelta(microseconds=1)) == previous
        previous = slot


@pytest.mark.parametrize("case", CASES)
def test_each_slot_is_found_from_the_one_before(case):
    expression, zone, after, wanted = CASES[case]
    timetable = cron(expression, zone)
    moment = datetime.fromisoformat(after)
    slots = timetable.slots(moment)
    for _ in wanted:
        slot = next(slots)
        assert timetable.after(moment) == slot
        moment = slot


def random_expression(dice):
    """Return an expression with at most some hundred slots a day."""

    def field(least, most, chance):
        kind = dice.random()
        if kind < chance:
            return dice.choice(["*", "*", f"*/{dice.choice([2, 3, 5, 7, 10, 15])}"])
        if kind < chance + 0.15:
            low = dice.randint(least, most - 1)
            return f"{low}-{dice.randint(low + 1, most)}" + dice.choice(["", "/2", "/3"])
        if kind < chance + 0.3:
            return ",".join(map(str, sorted(dice.sample(range(least, most + 1), 3))))
        return str(dice.randint(least, most))

    return " ".join(
        [
            field(0, 59, 0.2),
            field(0, 23, 0.4),
            field(1, 28, 0.8),
            field(1, 12, 0.9),
            field(0, 6, 0.8),
        ]
    )


EXPRESSIONS = [random_expression(random.Random(number)) for number in range(200)]


@pytest.mark.slow
@pytest.mark.sample
@pytest.mark.parametrize("zone", ZONES)
def test_slots_around_the_changes_of_clocks_agree_with_zoneinfo(zone):
    zone = ZoneInfo(zone)
    for change in changes(zone, 2026) or [date(2026, 7, 1)]:
        check(zone, change - timedelta(days=1), change + timedelta(days=1))


@pytest.mark.thorough
@pytest.mark.parametrize("zone", ZONES)
def test_slots_of_a_year_agree_with_zoneinfo(zone):
    check(ZoneInfo(zone), date(2026, 1, 1), date(2026, 12, 31))


def check(zone, first, last):
    start = datetime(first.year, first.month, first.day, tzinfo=zone).astimezone(UTC)
    following = last + timedelta(days=1)
    end = datetime(following.year, following.month, following.day, tzinfo=zone).astimezone(UTC)
    moment = timedelta(microseconds=1)
    for expression in EXPRESSIONS:
        found = list(cron(expression, zone).slots(start - moment, end - moment))
        assert found == slots_of(expression, zone, first, last), (expression, zone)


# Intervals and single times


def test_an_interval_counts_from_1970_if_it_has_no_start():
    timetable = Timetable("every", "300", BERLIN)
    slot = timetable.after(datetime(2026, 11, 26, 12, 3, tzinfo=UTC))
    assert slot == datetime(2026, 11, 26, 12, 5, tzinfo=UTC)
    assert timetable.upto(slot) == slot
    assert timetable.upto(slot - timedelta(microseconds=1)) == slot - timedelta(minutes=5)


def test_an_interval_counts_from_its_start():
    start = datetime(2026, 11, 26, 12, 3, tzinfo=UTC)
    timetable = Timetable("every", "86400", BERLIN, start=start)
    assert timetable.after(start - timedelta(days=3)) == start
    assert timetable.after(start) == start + timedelta(days=1)
    assert timetable.upto(start - timedelta(seconds=1)) is None


def test_an_interval_is_elapsed_time_when_clocks_change():
    start = datetime(2026, 3, 28, 12, tzinfo=BERLIN)
    timetable = Timetable("every", "86400", BERLIN, start=start)
    following = timetable.after(start)
    assert f"{following.astimezone(BERLIN):%d %H:%M}" == "29 13:00"


@pytest.mark.parametrize("seconds", ["1", "1.5", "1.1", "7", "86400", "2592000.25"])
def test_intervals_are_exact_after_many_years(seconds):
    timetable = Timetable("every", seconds, UTC)
    slot = timetable.after(datetime(2076, 1, 1, tzinfo=UTC))
    for _ in range(5):
        following = timetable.after(slot)
        assert timetable.upto(following - timedelta(microseconds=1)) == slot
        assert timetable.upto(following) == following
        slot = following


def test_a_single_time_has_one_slot():
    at = datetime(2026, 12, 24, 18, tzinfo=UTC)
    timetable = Timetable("at", at.isoformat(), BERLIN)
    assert timetable.after(at - timedelta(days=1)) == at
    assert timetable.after(at) is None
    assert timetable.upto(at) == at
    assert timetable.upto(at - timedelta(seconds=1)) is None


def test_no_slot_is_after_the_end_or_before_the_start():
    start, end = datetime(2026, 11, 26, tzinfo=UTC), datetime(2026, 11, 27, tzinfo=UTC)
    timetable = Timetable("cron", "0 */6 * * *", UTC, start, end)
    assert list(timetable.slots(start - timedelta(days=9))) == [
        start + timedelta(hours=hours) for hours in (0, 6, 12, 18, 24)
    ]
    assert timetable.upto(end + timedelta(days=9)) == end
    assert timetable.upto(start - timedelta(seconds=1)) is None


def test_a_count_is_bounded():
    timetable = cron("* * * * *", UTC)
    start = datetime(2026, 11, 26, tzinfo=UTC)
    assert timetable.count(start, start + timedelta(minutes=5), 100) == 5
    assert timetable.count(start, start + timedelta(days=5), 100) == 100


# Bad input


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("61 * * * *", r"cron='61 \* \* \* \*': Bad minute\."),
        ("* 24 * * *", "Bad hour"),
        ("* * 0 * *", "Bad day-of-month"),
        ("* * * 13 *", "Bad month"),
        ("* * * * 8", "Bad day-of-week"),
        ("* * * * sat-mon", "Bad day-of-week"),
        ("*/0 * * * *", "Bad minute"),
        ("0 0 30 2 *", "Bad day-of-month"),
        ("* * * *", "has 4 fields. A cron expression has five"),
        ("0 * * * * *", "has 6 fields.*Seconds are not supported"),
        ("", "has 0 fields"),
        ("@reboot", "has 1 fields.*@hourly, @daily, @weekly, @monthly, @yearly"),
        ("٣ * * * *", "Bad minute"),
    ],
)
def test_an_expression_that_is_wrong_is_refused_in_plain_words(expression, message):
    with pytest.raises(InvalidOption, match=message):
        check_cron(expression)


@pytest.mark.parametrize(
    ("alias", "expression"),
    [("@hourly", "0 * * * *"), ("@Daily", "0 0 * * *"), (" 5  4 * * * ", "5 4 * * *")],
)
def test_an_alias_and_blanks_are_written_out(alias, expression):
    assert check_cron(alias) == expression


@pytest.mark.parametrize(
    ("name", "near"),
    [("Europe/Berln", "Europe/Berlin"), ("Berlin", "Europe/Berlin"), ("../etc/passwd", "IANA")],
)
def test_an_unknown_zone_is_refused_with_the_nearest_names(name, near):
    with pytest.raises(InvalidOption, match=f"is unknown.*{near}"):
        check_zone(name)


def test_an_expression_that_never_fires_is_refused():
    with pytest.raises(InvalidOption, match="no slot within 5 years"):
        check_ever_fires("cron", "0 0 29 2 */7", datetime(2026, 3, 1, tzinfo=UTC))


def test_a_leap_day_is_soon_enough():
    check_ever_fires("cron", "0 0 29 2 *", datetime(2028, 3, 1, tzinfo=UTC))


def test_a_schedule_that_has_ended_is_refused():
    end = datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(InvalidOption, match="no slot from now on before its end, 2026-01-01 00:00"):
        check_has_slots(Timetable("cron", "* * * * *", UTC, end=end), end + timedelta(days=1))


@pytest.mark.parametrize("seconds", ["1", "1.1", "90", "86400"])
@pytest.mark.parametrize(
    ("after", "until"), [(-200_000, 100), (0, 7_200), (5, 86_400), (3_600, 9e5)]
)
def test_intervals_are_counted_as_they_would_be_walked_through(seconds, after, until):
    start = datetime(2026, 11, 26, tzinfo=UTC)
    end = start + timedelta(hours=20)
    timetable = Timetable("every", seconds, UTC, start, end)
    begin, last = (start + timedelta(seconds=one) for one in (after, until))
    walked = sum(1 for _ in timetable.slots(begin, last))
    assert timetable.count(begin, last, 1_000_000) == walked
    assert timetable.count(begin, last, 3) == min(walked, 3)


def test_no_interval_is_counted_before_the_start_or_after_the_end():
    start = datetime(2026, 11, 26, tzinfo=UTC)
    timetable = Timetable("every", "60", UTC, start, start + timedelta(hours=1))
    assert timetable.count(start - timedelta(days=9), start - timedelta(days=8), 100) == 0
    assert timetable.count(start + timedelta(days=8), start + timedelta(days=9), 100) == 0
