from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.utils import timezone

from bgtask_admin.tasks.selection import InvalidSelection, Selection


@pytest.fixture(autouse=True)
def zone(settings):
    """Use the time of Berlin. Clocks go forward on 2026-03-29 and back on 2026-10-25."""
    settings.USE_TZ = True
    with timezone.override("Europe/Berlin"):
        yield


def parsed(text: str) -> datetime:
    moment: datetime = Selection.parse({"since": text}).cleaned["since"]
    return moment.astimezone(UTC)


@pytest.mark.parametrize("text", ["2026-03-29 02:30", "2026-03-29T02:00"])
def test_a_time_that_clocks_skip_is_refused_with_its_field(text):
    """Kind of fault: a time that doesn't exist is taken for another, and refused much later."""
    with pytest.raises(InvalidSelection) as caught:
        Selection.parse({"since": text, "until": "2026-03-29T03:10"})

    assert caught.value.messages == [
        f"Since: Clocks in Europe/Berlin skip “{text}”. Use an earlier or a later time."
    ]


def test_a_time_that_comes_twice_is_refused_with_both_readings():
    """Kind of fault: one of two meanings is chosen, and nobody is told which."""
    with pytest.raises(InvalidSelection) as caught:
        Selection.parse({"until": "2026-10-25 02:30"})

    assert caught.value.messages == [
        "Until: “2026-10-25 02:30” comes twice in Europe/Berlin. "
        "Use 2026-10-25 02:30+02:00 or 2026-10-25 02:30+01:00."
    ]
    assert parsed("2026-10-25 02:30+02:00") == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert parsed("2026-10-25 02:30+01:00") == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone_name", "day", "hour"), [("Africa/Cairo", 23, 22), ("Europe/Berlin", 23, 22)]
)
def test_a_day_begins_even_if_clocks_skip_midnight(zone_name, day, hour):
    with timezone.override(zone_name):
        assert parsed("2026-04-24") == datetime(2026, 4, day, hour, tzinfo=UTC)


def test_the_ends_of_a_period_are_compared_as_points_in_time():
    """Kind of fault: two times of one zone are compared as the clock on a wall."""
    selection = Selection.parse(
        {"since": "2026-10-25 02:50+02:00", "until": "2026-10-25 02:10+01:00"}
    )

    assert Selection.parse(selection.data).cleaned == selection.cleaned
    with pytest.raises(InvalidSelection, match="must be after"):
        Selection.parse({"since": "2026-10-25 02:10+01:00", "until": "2026-10-25 02:50+02:00"})
    with timezone.override("Africa/Cairo"), pytest.raises(InvalidSelection, match="must be after"):
        Selection.parse({"since": "2026-04-24", "until": "2026-04-24 01:00"})
