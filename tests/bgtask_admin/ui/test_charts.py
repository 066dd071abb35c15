from __future__ import annotations

from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

from bgtask_admin.ui.charts import Band, Chart, nice, sparkline


def chart(*values: float | None) -> Chart:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    times = [start + timedelta(minutes=index) for index in range(len(values))]
    return Chart(
        title="Done & <more>", summary="3 done.", bands=[Band("a", "b", values)], times=times
    )


def test_chart_has_a_text_for_screen_readers():
    svg = ElementTree.fromstring(chart(1, 2, None).svg())  # noqa: S314

    assert svg.get("role") == "img"
    assert svg.get("aria-label") == "Done & <more>: 3 done."


def test_chart_draws_a_bar_within_the_box_for_each_point():
    svg = ElementTree.fromstring(chart(1, 0, None, 100_000).svg())  # noqa: S314
    bars = [one for one in svg if one.tag == "rect"]

    assert len(bars) == 2
    for bar in bars:
        assert float(bar.get("height", 0)) >= 1
        assert 0 <= float(bar.get("y", 0)) <= 120


def test_chart_has_no_inline_style():
    assert "style" not in chart(1, 2).svg() + sparkline([1, 2], "x")


def test_chart_without_values_is_empty():
    assert chart(None, None).is_empty
    assert not chart(0, None).is_empty


def test_top_of_the_axis_is_a_round_number():
    assert [nice(value) for value in (0, 1, 3, 412, 5001)] == [1, 1, 5, 500, 10_000]
